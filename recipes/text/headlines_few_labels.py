"""Forty labels, of headlines of BBC news from PyPI, eight a topic: a contrastive loss, and an estimate out of fold.

The model is trained on all labels, in at least 100 steps. The other headlines are test rows, to see what the estimate
is worth.

hf-finetune run headlines_few_labels
hf-finetune run headlines_few_labels --method head
hf-finetune run headlines_few_labels --objective.contrast 0
"""

from hf_finetune import BBC_LICENSE, Evaluate, Hub, Model, Recipe, Supervised, TextData, bbc_headlines, main, minilm


def recipe() -> Recipe:
    return Recipe(
        name="headlines-few-labels",
        data=TextData(
            path=bbc_headlines(),
            test_fraction=0.982,
            # No headline is longer.
            max_length=32,
            license=BBC_LICENSE,
            name="BBC headlines",
        ),
        model=Model(checkpoint=minilm()),
        # The examples of a class are drawn together, beside the loss against the labels.
        objective=Supervised(contrast=0.5),
        evaluate=Evaluate(folds=5),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
