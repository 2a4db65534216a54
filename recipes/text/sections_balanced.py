"""MiniLM on package descriptions of twenty sections of unequal size: class-balanced loss.

The largest section has fifteen times the rows of the smallest. The loss of a row is weighted by the effective number of
rows of its class (arXiv:1901.05555), and macro F1, in which all classes count the same, chooses the epoch. The data are
a folder with train and test files of the columns text and label.

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
