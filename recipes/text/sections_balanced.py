"""MiniLM on package descriptions of twenty sections, the largest fifteen times the smallest: class-balanced loss.

A row's loss is weighted by the effective number of rows of its class (arXiv:1901.05555), and the epoch is chosen by
macro F1, in which every class counts the same. The data are a folder with train and test files of the columns text and
label.

hf-finetune run sections_balanced --data.path FOLDER
hf-finetune run sections_balanced --data.path FOLDER --objective.class-weights null --batching.sampling square_root
"""

from hf_finetune import EffectiveNumber, Evaluate, Hub, Model, Recipe, Supervised, TextData, main, minilm


def recipe() -> Recipe:
    return Recipe(
        name="sections-balanced",
        data=TextData(path="sections", text="text", label="label"),
        model=Model(checkpoint=minilm()),
        objective=Supervised(class_weights=EffectiveNumber(beta=0.999)),
        evaluate=Evaluate(metric="macro_f1"),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
