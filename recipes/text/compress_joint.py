"""MiniLM on intents, then distilled from itself, pruned and quantized.

Chains of vocabulary trimming, fewer neurons, fewer layers, training by the logits of the unpruned network, and int8 are
tried. A candidate stays only if it loses at most one point on the validation rows, and the fastest one is the result in
compressed/ of the run. The data are a folder with train and test files of the columns text and label.

hf-finetune run compress_joint --data.path FOLDER
hf-finetune run compress_joint --data.path FOLDER --compress.max-loss 0.5 --compress.latency 2ms
hf-finetune run compress_joint --data.path FOLDER --compress.steps vocabulary,layers=3,distill=6,int8
"""

from hf_finetune import Compress, Hub, Model, Recipe, TextData, main, minilm


def recipe() -> Recipe:
    return Recipe(
        name="compress-joint",
        data=TextData(path="banking77", text="text", label="label"),
        model=Model(checkpoint=minilm()),
        compress=Compress(max_loss=1.0),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
