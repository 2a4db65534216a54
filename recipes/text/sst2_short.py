"""BERT on SST-2 with six of its twelve layers: shortened before training, then fully fine-tuned.

The layers are those that DistilBERT starts from (arXiv:1910.01108). The highest one stays, because the pooler reads its
output. The result is a stock BERT of six layers, which loads with plain transformers.

accelerate launch recipes/text/sst2_short.py
hf-finetune run sst2_short --model.surgery '[{type: KeepLayers, first: 8}, {type: ReinitTopLayers, count: 1}]'
"""

from hf_finetune import Hub, KeepLayers, Model, Recipe, TextData, Train, main


def recipe() -> Recipe:
    return Recipe(
        name="sst2-bert-short",
        # The labels of the test split are withheld, so the run is evaluated on validation.
        data=TextData(path="stanfordnlp/sst2", text="sentence", label="label", max_length=128),
        model=Model(
            checkpoint="google-bert/bert-base-uncased",
            surgery=(KeepLayers(layers=(0, 2, 4, 7, 9, 11)),),
        ),
        # A higher rate than for the full network, as each layer has to adapt to a new predecessor.
        train=Train(learning_rate=5e-5, num_train_epochs=3),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
