"""ViT on photographs of bean leaves: full fine-tuning.

hf-finetune run beans_full
accelerate launch --config_file recipes/accelerate/bf16.yaml recipes/vision/beans_full.py
"""

from hf_finetune import Hub, ImageData, Model, Recipe, Train, main


def recipe() -> Recipe:
    return Recipe(
        name="beans-vit-full",
        data=ImageData(path="AI-Lab-Makerere/beans", image="image", label="labels", license="mit"),
        model=Model(checkpoint="google/vit-base-patch16-224-in21k"),
        train=Train(learning_rate=5e-5, num_train_epochs=3, per_device_train_batch_size=16),
        hub=Hub(license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
