"""A small ViT of random weights on Fashion-MNIST, distilled from a larger pretrained one.

hf-finetune train zalando-datasets/fashion_mnist --model google/vit-base-patch16-224-in21k --output runs/fashion-teacher
hf-finetune run fashion_distilled
hf-finetune run fashion_distilled --objective Supervised    # the same student without a teacher
hf-finetune run fashion_distilled --model facebook/deit-tiny-distilled-patch16-224    # with a head for the teacher

Student and teacher each read images of their own size. The student reads the original 28 pixels, in 49 patches of 4. It
takes its family and image normalization from the checkpoint, but no weights; the teacher alone is pretrained.
"""

from hf_finetune import Distill, Hub, ImageData, Model, Recipe, SoftTargets, Train, main

SMALL = {
    "image_size": 28,
    "patch_size": 4,
    "num_hidden_layers": 4,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "intermediate_size": 512,
}


def recipe() -> Recipe:
    return Recipe(
        name="fashion-distilled",
        data=ImageData(path="zalando-datasets/fashion_mnist", image="image", label="label", license="mit"),
        model=Model(checkpoint="google/vit-base-patch16-224-in21k", from_config=SMALL),
        objective=Distill(teacher="runs/fashion-teacher", kinds=(SoftTargets(temperature=2.0),)),
        train=Train(num_train_epochs=20, per_device_train_batch_size=64),
        hub=Hub(license="mit"),
    )


if __name__ == "__main__":
    main(recipe)
