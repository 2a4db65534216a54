"""MiniLM on the headlines of BBC news, both from PyPI: full fine-tuning, offline, in two minutes on two cores.

hf-finetune quickstart
hf-finetune run quickstart --method lora
"""

from hf_finetune import BBC_LICENSE, Batching, Hub, Model, Recipe, TextData, Train, bbc_headlines, main, minilm


def recipe() -> Recipe:
    return Recipe(
        name="quickstart",
        data=TextData(
            path=bbc_headlines(),
            # The corpus has no split of its own: rows are set aside once, with a fixed seed.
            test_fraction=0.3,
            validation_fraction=0.2,
            # No headline is longer.
            max_length=32,
            license=BBC_LICENSE,
            name="BBC headlines",
        ),
        model=Model(checkpoint=minilm()),
        # Chosen on validation rows, see docs/benchmarks.md.
        train=Train(num_train_epochs=3),
        # 32 rows a step, regardless of the number of processes.
        batching=Batching(rows_per_step=32),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
