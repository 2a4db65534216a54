"""MiniLM on package descriptions with any number of 70 tags: multi-label classification.

The label column holds lists. Each tag has a threshold of its own, which is chosen on validation rows and stored with
the model. The data are a folder with train and test files of the columns text and label.

hf-finetune run debtags_tags --data.path FOLDER
hf-finetune run debtags_tags --data.path FOLDER --objective.loss Asymmetric
hf-finetune run debtags_tags --data.path FOLDER --objective.class-weights Balanced
"""

from hf_finetune import Hub, Model, Recipe, TextData, main, minilm


def recipe() -> Recipe:
    return Recipe(
        name="debtags-tags",
        data=TextData(path="debtags", text="text", label="label", task="multi-label"),
        model=Model(checkpoint=minilm()),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
