"""Boosted trees on a text and two numbers: which source a sentence comes from.

No network: TF-IDF of words in 100 components, counts of the text, and the columns rating and spread are read by
scikit-learn's gradient-boosted trees. The data are a folder with train and test files of the columns text, rating,
spread and source: the ground truth of vaderSentiment (MIT), sentences of reviews, editorials and tweets, with the mean
and the standard deviation of twenty people's ratings.

hf-finetune run features_boosted_trees --data.path FOLDER
hf-finetune run features_boosted_trees --data.path FOLDER --classical.classifier LinearModel
hf-finetune features FOLDER --features rating spread --extractors '[TextCounts, NumberColumns]' --output features.csv
"""

from hf_finetune import (
    BoostedTrees,
    Classical,
    Hub,
    Model,
    NumberColumns,
    Recipe,
    TextCounts,
    TextData,
    WordTfidf,
    main,
    minilm,
)


def recipe() -> Recipe:
    return Recipe(
        name="sources-boosted-trees",
        data=TextData(
            path="sources",
            text="text",
            label="source",
            task="single-label",
            features=("rating", "spread"),
            license="mit",
        ),
        # Of no use here: a recipe names a checkpoint for the other methods.
        model=Model(checkpoint=minilm()),
        method="classical",
        classical=Classical(BoostedTrees(), extractors=(WordTfidf(), TextCounts(), NumberColumns(scale=None))),
        hub=Hub(language="en", license="mit"),
    )


if __name__ == "__main__":
    main(recipe)
