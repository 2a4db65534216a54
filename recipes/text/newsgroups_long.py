"""MiniLM on whole messages of 20 newsgroups, most of which are longer than 128 tokens: sliding windows.

The mean of the windows' logits, weighted by their tokens, trains and predicts. The data are a folder with train and
test files of the columns text and label.

hf-finetune run newsgroups_long --data.path FOLDER
hf-finetune run newsgroups_long --data.path FOLDER --long chunk --data.long.pooling attention
hf-finetune run newsgroups_long --data.path FOLDER --long auto    # measured on validation rows
hf-finetune plan run newsgroups_long --data.path FOLDER    # what each way leaves out, and what it costs
"""

from hf_finetune import Batching, Hub, Model, Recipe, Sliding, TextData, Train, main, minilm


def recipe() -> Recipe:
    return Recipe(
        name="newsgroups-long",
        data=TextData(path="newsgroups", text="text", label="label", max_length=128, long=Sliding(most_windows=4)),
        model=Model(checkpoint=minilm()),
        train=Train(num_train_epochs=3),
        batching=Batching(rows_per_step=32),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
