"""BERT on SST-2: full fine-tuning.

accelerate launch recipes/text/sst2_full.py
hf-finetune run sst2_full --train.num-train-epochs 2 --push your-name/sst2-bert
"""

from hf_finetune import Hub, Model, Recipe, TextData, Train, main


def recipe() -> Recipe:
    return Recipe(
        name="sst2-bert-full",
        # The labels of the test split are withheld, so the run is evaluated on validation.
        data=TextData(path="stanfordnlp/sst2", text="sentence", label="label", max_length=128),
        model=Model(checkpoint="google-bert/bert-base-uncased"),
        train=Train(learning_rate=2e-5, num_train_epochs=3),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
