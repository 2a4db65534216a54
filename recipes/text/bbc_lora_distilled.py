"""MiniLM on BBC news with LoRA adapters, distilled from the model of bbc_full on augmented texts.

hf-finetune run bbc_full    # its first run, runs/bbc-full-1, is the teacher
hf-finetune run bbc_lora_distilled
hf-finetune run bbc_lora_distilled --data.augment '[Eda]' --teacher runs/other
hf-finetune run bbc_lora_distilled --data.augment-copies 2    # stored copies, which the teacher predicts once

Augmentation may change the class of a text; the teacher predicts the class of the changed text.
"""

from peft import LoraConfig

from hf_finetune import (
    BBC_LICENSE,
    Batching,
    DeleteWords,
    Distill,
    Hub,
    Model,
    Recipe,
    SoftTargets,
    SwapWords,
    TextData,
    Train,
    bbc_news,
    main,
    minilm,
)


def recipe() -> Recipe:
    return Recipe(
        name="bbc-lora-distilled",
        # The same split as the teacher's, so that the teacher has seen no test row either.
        data=TextData(
            path=bbc_news(),
            test_fraction=0.2,
            encoding="cp1252",
            license=BBC_LICENSE,
            name="BBC news",
            augment=(SwapWords(p=0.1), DeleteWords(p=0.1)),
        ),
        model=Model(checkpoint=minilm()),
        adapter=LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules="all-linear"),
        objective=Distill(teacher="runs/bbc-full-1", kinds=(SoftTargets(temperature=2.0),)),
        train=Train(learning_rate=1e-3, num_train_epochs=2),
        # 32 rows a step, regardless of the number of processes.
        batching=Batching(rows_per_step=32),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
