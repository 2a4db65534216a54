"""ViT on photographs of bean leaves with LoRA adapters on the attention's queries and values.

hf-finetune run beans_lora
accelerate launch --config_file recipes/accelerate/bf16.yaml recipes/vision/beans_lora.py
"""

from peft import LoraConfig

from hf_finetune import Hub, ImageData, Model, Recipe, Train, main


def recipe() -> Recipe:
    return Recipe(
        name="beans-vit-lora",
        data=ImageData(path="AI-Lab-Makerere/beans", image="image", label="labels", license="mit"),
        model=Model(checkpoint="google/vit-base-patch16-224-in21k"),
        adapter=LoraConfig(r=16, lora_alpha=16, lora_dropout=0.1, target_modules=["query", "value"]),
        train=Train(learning_rate=2e-3, num_train_epochs=3, per_device_train_batch_size=16),
        hub=Hub(license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
