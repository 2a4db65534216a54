"""MiniLM on BBC news with LoRA adapters: the data of bbc_full, trains a hundredth of the weights.

hf-finetune run bbc_lora
accelerate launch --config_file recipes/accelerate/cpu-2.yaml recipes/text/bbc_lora.py --model.dropout 0
"""

from peft import LoraConfig

from hf_finetune import BBC_LICENSE, Batching, Hub, Model, Recipe, TextData, Train, bbc_news, main, minilm


def recipe() -> Recipe:
    return Recipe(
        name="bbc-lora",
        data=TextData(path=bbc_news(), test_fraction=0.2, encoding="cp1252", license=BBC_LICENSE, name="BBC news"),
        model=Model(checkpoint=minilm()),
        adapter=LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules="all-linear"),
        train=Train(learning_rate=1e-3, num_train_epochs=1),
        # 32 rows a step, regardless of the number of processes.
        batching=Batching(rows_per_step=32),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
