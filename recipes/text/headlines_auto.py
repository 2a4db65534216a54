"""Method auto on headlines of BBC news, from PyPI: simple models first, then what is worth its time, in two minutes.

hf-finetune run headlines_auto
hf-finetune run headlines_auto --budget 10m
hf-finetune run headlines_auto --preset best
"""

from hf_finetune import BBC_LICENSE, Hub, Model, Recipe, Search, TextData, bbc_headlines, main, minilm


def recipe() -> Recipe:
    return Recipe(
        name="headlines-auto",
        data=TextData(
            path=bbc_headlines(),
            # The corpus has no split of its own. Validation rows choose the rung: more of them decide more.
            test_fraction=0.3,
            validation_fraction=0.2,
            # No headline is longer.
            max_length=32,
            license=BBC_LICENSE,
            name="BBC headlines",
        ),
        model=Model(checkpoint=minilm()),
        method="auto",
        search=Search(budget="2m"),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
