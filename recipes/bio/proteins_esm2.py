"""ESM-2 of 8 million weights on the classes of your own proteins, with LoRA adapters.

The data are a folder with a FASTA file for each class, `enzyme.fasta` and `other.fasta`, or a table.

hf-finetune run proteins_esm2 --data.path proteins/
hf-finetune run proteins_esm2 --data.path proteins/ --model facebook/esm2_t12_35M_UR50D
"""

from hf_finetune import Batching, Hub, Model, Recipe, TextData, Train, main


def recipe() -> Recipe:
    return Recipe(
        name="proteins-esm2",
        data=TextData(path="proteins", sequence="protein", max_length=512, test_fraction=0.2),
        model=Model(checkpoint="facebook/esm2_t6_8M_UR50D"),
        method="lora",
        train=Train(num_train_epochs=5),
        batching=Batching(rows_per_step=32),
        hub=Hub(license="mit"),
    )


if __name__ == "__main__":
    main(recipe)
