"""MiniLM on 20 newsgroups with 20 labels per class, after masked language modeling on all messages.

The recipe also trains without pretraining, for the same total time, and the card reports the difference. The data are a
folder with train and test files of the columns text and label.

hf-finetune run newsgroups_pretrained --data.path FOLDER
hf-finetune run newsgroups_pretrained --data.path FOLDER --pretrain.objective '{type: MaskedLanguage, span: 10}'
hf-finetune run newsgroups_pretrained --data.path FOLDER --pretrain.objective '{type: SimCSE, pooling: mean}'
hf-finetune run newsgroups_pretrained --data.path FOLDER --rows-per-class 5 --pretrain.max-steps 500
"""

from hf_finetune import Batching, Hub, MaskedLanguage, Model, Pretrain, Recipe, TextData, Train, main, minilm


def recipe() -> Recipe:
    return Recipe(
        name="newsgroups-pretrained",
        data=TextData(path="newsgroups", text="text", label="label", rows_per_class=20),
        model=Model(checkpoint=minilm()),
        # Pretrains on all training messages, including those that rows_per_class leaves out.
        pretrain=Pretrain(MaskedLanguage(), num_train_epochs=3, compare=True),
        train=Train(num_train_epochs=10),
        batching=Batching(rows_per_step=32),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
