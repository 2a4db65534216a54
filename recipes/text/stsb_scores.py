"""BERT on STS-B, pairs of sentences with the mean of what people say about their similarity: a number for a pair.

The relation is symmetric: half of the pairs of an epoch are read in the other order.

hf-finetune run stsb_scores
hf-finetune run stsb_scores --data.path pairs.csv --data.text question1 --data.text-pair question2
hf-finetune run stsb_scores --data.augment '[]' --objective.loss Huber
"""

from hf_finetune import Hub, Model, Recipe, SwapPair, TextData, Train, main


def recipe() -> Recipe:
    return Recipe(
        name="stsb-bert-scores",
        data=TextData(
            path="sentence-transformers/stsb",
            text="sentence1",
            text_pair="sentence2",
            label="score",
            task="regression",
            max_length=128,
            augment=(SwapPair(),),
        ),
        model=Model(checkpoint="google-bert/bert-base-uncased"),
        train=Train(learning_rate=3e-5, num_train_epochs=4),
        hub=Hub(language="en"),
    )


if __name__ == "__main__":
    main(recipe)
