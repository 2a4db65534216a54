"""Method auto on emoji, from PyPI: simple models first, then what is worth its time, in three minutes.

hf-finetune run emoji_auto
hf-finetune run emoji_auto --budget 10m --preset best
"""

from hf_finetune import (
    TWEMOJI_LICENSE,
    Batching,
    Hub,
    ImageData,
    Model,
    Recipe,
    ResizeImage,
    Search,
    Train,
    efficientnet_lite0,
    main,
    twemoji,
)


def recipe() -> Recipe:
    return Recipe(
        name="emoji-auto",
        data=ImageData(
            path=twemoji(),
            # The emoji have no split of their own. With 300 validation rows these choose the rung, with fewer all rows
            # may, in folds.
            test_fraction=0.3,
            validation_fraction=0.27,
            license=TWEMOJI_LICENSE,
            name="Twemoji",
        ),
        # An emoji has 72 pixels: 96 take a fifth of the time of 224.
        model=Model(checkpoint=efficientnet_lite0(), surgery=(ResizeImage(size=96),)),
        method="auto",
        # As in quickstart_image, chosen on validation rows.
        train=Train(learning_rate=3e-4, num_train_epochs=4),
        batching=Batching(rows_per_step=32),
        search=Search(budget="3m"),
        hub=Hub(license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
