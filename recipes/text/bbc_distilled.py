"""Three of MiniLM's six layers on BBC news, distilled from the model of bbc_full.

hf-finetune run bbc_full    # its first run, runs/bbc-full-1, is the teacher
hf-finetune run bbc_distilled
hf-finetune run bbc_distilled --teacher runs/other --objective.kinds '[SoftTargets, MatchLogits]'
hf-finetune run bbc_distilled --objective Supervised    # the same student without a teacher
"""

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
        # The same split as the teacher's, so that the teacher has seen no test row either.
        data=TextData(path=bbc_news(), test_fraction=0.2, encoding="cp1252", license=BBC_LICENSE, name="BBC news"),
        model=Model(checkpoint=minilm(), surgery=(KeepLayers(layers=(0, 2, 5)),)),
        objective=Distill(teacher="runs/bbc-full-1", kinds=(SoftTargets(temperature=2.0),)),
        train=Train(num_train_epochs=3),
        # 32 rows a step, regardless of the number of processes.
        batching=Batching(rows_per_step=32),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
