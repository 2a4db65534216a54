"""MiniLM on BBC news with LoRA adapters, taught by the quickstart's result on texts whose words are changed in every
epoch.

hf-finetune quickstart    # the first one's run, runs/quickstart-1, is the teacher
hf-finetune run bbc_lora_distilled
hf-finetune run bbc_lora_distilled --data.augment '[Eda]' --teacher runs/other
hf-finetune run bbc_lora_distilled --data.augment-copies 2    # stored views, which the teacher answers once

A changed text need not be of its row's class any more: the teacher says what it is of now.
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
        # Divided as the quickstart's: no test row has been seen by the teacher either.
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
        objective=Distill(teacher="runs/quickstart-1", kinds=(SoftTargets(temperature=2.0),)),
        train=Train(learning_rate=1e-3, num_train_epochs=2),
        # The same 32 rows a step, however many processes share them.
        batching=Batching(rows_per_step=32),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
