"""Promoters of E. coli among DNA of 57 bases: a small network from random weights, in seconds on two cores.

106 sequences are few: the card says how wide the interval is, and that counted k-mers do as well. The data are a csv
file with the columns text and label, of UCI's molecular biology data set.

hf-finetune run promoters --data.path promoters.csv
hf-finetune run promoters --data.path promoters.csv --data.augment '[ReverseComplement]'
hf-finetune run promoters --data.path reads.csv --pretrain.objective MaskedLanguage --pretrain.rows genome.fasta
"""

from hf_finetune import Batching, Hub, KmerTokenizer, Model, Recipe, TextData, Train, main


def recipe() -> Recipe:
    return Recipe(
        name="promoters",
        data=TextData(
            path="promoters.csv",
            text="text",
            label="label",
            sequence="dna",
            max_length=64,
            test_fraction=0.3,
            validation_fraction=0.2,
            name="E. coli promoters",
        ),
        model=Model(
            checkpoint="modernbert",
            # Few weights for few rows. The maximum over all places finds a motif wherever it is.
            from_config={
                "num_hidden_layers": 1,
                "hidden_size": 64,
                "num_attention_heads": 4,
                "intermediate_size": 128,
                "local_attention": 16,
                "embedding_dropout": 0.1,
                "mlp_dropout": 0.1,
            },
            tokenizer=KmerTokenizer(k=4),
            pooling="max",
        ),
        train=Train(num_train_epochs=60, learning_rate=1e-3),
        batching=Batching(rows_per_step=16),
        hub=Hub(license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
