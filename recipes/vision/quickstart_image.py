"""EfficientNet-Lite0 on emoji, both from PyPI: full fine-tuning, offline, in two minutes on two cores.

hf-finetune quickstart --image
hf-finetune run quickstart_image --method lora
"""

from hf_finetune import (
    TWEMOJI_LICENSE,
    Batching,
    Hub,
    ImageData,
    Model,
    Recipe,
    ResizeImage,
    Train,
    efficientnet_lite0,
    main,
    twemoji,
)


def recipe() -> Recipe:
    return Recipe(
        name="quickstart-image",
        data=ImageData(
            path=twemoji(),
            # The emoji have no split of their own: rows are set aside once, with a fixed seed.
            test_fraction=0.3,
            validation_fraction=0.2,
            license=TWEMOJI_LICENSE,
            name="Twemoji",
        ),
        # An emoji has 72 pixels: 96 take a fifth of the time of 224.
        model=Model(checkpoint=efficientnet_lite0(), surgery=(ResizeImage(size=96),)),
        # Chosen on validation rows, see docs/benchmarks.md.
        train=Train(learning_rate=3e-4, num_train_epochs=4),
        # 32 rows a step, regardless of the number of processes.
        batching=Batching(rows_per_step=32),
        hub=Hub(license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
