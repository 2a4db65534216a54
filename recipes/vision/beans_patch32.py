"""ViT on photographs of bean leaves, moved to larger images in larger patches: every weight trains.

hf-finetune run beans_patch32
hf-finetune run beans_patch32 --model.surgery.0.image-size 448

The checkpoint was made for 224 pixels in patches of 16: 196 of them. Here 384 pixels come in patches of 32: 144, each
with what the photograph shows at nearly twice the resolution. Its kernel is resized so that an enlarged patch gives the
token that the patch gave (arXiv:2212.08013), its positions are interpolated, and plain transformers loads the result.
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
