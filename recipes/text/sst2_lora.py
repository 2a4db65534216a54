"""BERT on SST-2 with LoRA adapters on every linear layer of the encoder.

accelerate launch recipes/text/sst2_lora.py
accelerate launch --mixed_precision bf16 recipes/text/sst2_lora.py --train.learning-rate 1e-4
"""

from peft import LoraConfig

from hf_finetune import Hub, Model, Recipe, Supervised, TextData, Train, main


def recipe() -> Recipe:
    return Recipe(
        name="sst2-bert-lora",
        data=TextData(path="stanfordnlp/sst2", text="sentence", label="label", max_length=128),
        model=Model(checkpoint="google-bert/bert-base-uncased"),
        adapter=LoraConfig(task_type="SEQ_CLS", r=8, target_modules="all-linear"),
        objective=Supervised(label_smoothing=0.1),
        train=Train(learning_rate=5e-4, num_train_epochs=3),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
