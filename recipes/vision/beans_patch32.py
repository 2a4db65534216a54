"""ViT on photographs of bean leaves, adapted to larger images in larger patches: full fine-tuning.

hf-finetune run beans_patch32
hf-finetune run beans_patch32 --model.surgery.0.image-size 448

The checkpoint reads 224 pixels in 196 patches of 16. Here it reads 384 pixels in 144 patches of 32: fewer tokens at
nearly twice the resolution. The patch kernel is resized so that an enlarged patch gives the token of the original
(arXiv:2212.08013), the positions are interpolated, and plain transformers loads the result.
"""

from hf_finetune import Hub, ImageData, Model, Recipe, ResizePatches, Train, main


def recipe() -> Recipe:
    return Recipe(
        name="beans-vit-patch32",
        data=ImageData(path="AI-Lab-Makerere/beans", image="image", label="labels", license="mit"),
        model=Model(
            checkpoint="google/vit-base-patch16-224-in21k",
            surgery=(ResizePatches(size=32, image_size=384),),
        ),
        train=Train(learning_rate=5e-5, num_train_epochs=3, per_device_train_batch_size=16),
        hub=Hub(license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
