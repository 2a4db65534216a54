"""MiniLM with three of its six layers on BBC news, taught by the whole one: the quickstart's data and its result.

hf-finetune quickstart    # the first one's run, runs/quickstart-1, is the teacher hf-finetune run bbc_distilled
hf-finetune run bbc_distilled --teacher runs/other --objective.kinds '[{type: SoftTargets, temperature: 4},
MatchLogits]' hf-finetune run bbc_distilled --objective Supervised    # the same student without a teacher"""

from hf_finetune import (
    BBC_LICENSE,
    Batching,
    Distill,
    Hub,
    KeepLayers,
    Model,
    Recipe,
    SoftTargets,
    TextData,
    Train,
    bbc_news,
    main,
    minilm,
)


def recipe() -> Recipe:
    return Recipe(
        name="bbc-distilled",
        # Divided as the quickstart's: no test row has been seen by the teacher either.
        data=TextData(path=bbc_news(), test_fraction=0.2, encoding="cp1252", license=BBC_LICENSE, name="BBC news"),
        model=Model(checkpoint=minilm(), surgery=(KeepLayers(layers=(0, 2, 5)),)),
        objective=Distill(teacher="runs/quickstart-1", kinds=(SoftTargets(temperature=2.0),)),
        train=Train(num_train_epochs=3),
        # The same 32 rows a step, however many processes share them.
        batching=Batching(rows_per_step=32),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
