"""MiniLM on whole articles of BBC news, cut off at 128 tokens: full fine-tuning, the teacher of the other BBC recipes.

hf-finetune run bbc_full
hf-finetune run bbc_full --method lora
"""

from hf_finetune import BBC_LICENSE, Batching, Hub, Model, Recipe, TextData, Train, bbc_news, main, minilm


def recipe() -> Recipe:
    return Recipe(
        name="bbc-full",
        data=TextData(
            path=bbc_news(),
            # The corpus has no split of its own: a fifth is set aside once, with a fixed seed.
            test_fraction=0.2,
            # One of its articles is not UTF-8.
            encoding="cp1252",
            license=BBC_LICENSE,
            name="BBC news",
        ),
        model=Model(checkpoint=minilm()),
        train=Train(num_train_epochs=1),
        # 32 rows a step, regardless of the number of processes.
        batching=Batching(rows_per_step=32),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
