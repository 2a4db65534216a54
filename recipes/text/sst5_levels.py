"""BERT on SST-5, sentences of film reviews from very negative (0) to very positive (4): ordered classes.

A mistake of two levels counts more than one of one level. The levels are whole numbers, or texts in the order of
--label-order.

hf-finetune run sst5_levels
hf-finetune run sst5_levels --objective.loss CrossEntropy
hf-finetune run sst5_levels --data.path reviews.csv --label rating --label-order bad,fair,good
"""

from hf_finetune import Hub, Model, Recipe, TextData, Train, main


def recipe() -> Recipe:
    return Recipe(
        name="sst5-bert-levels",
        data=TextData(path="SetFit/sst5", text="text", label="label", task="ordinal", max_length=128),
        model=Model(checkpoint="google-bert/bert-base-uncased"),
        train=Train(learning_rate=3e-5, num_train_epochs=3),
        hub=Hub(language="en"),
    )


if __name__ == "__main__":
    main(recipe)
