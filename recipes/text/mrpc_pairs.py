"""BERT on MRPC, pairs of sentences with the same meaning or not: full fine-tuning.

hf-finetune run mrpc_pairs
"""

from hf_finetune import Evaluate, Hub, Model, Recipe, TextData, Train, main


def recipe() -> Recipe:
    return Recipe(
        name="mrpc-bert-full",
        data=TextData(
            path="nyu-mll/glue",
            config_name="mrpc",
            text="sentence1",
            text_pair="sentence2",
            label="label",
            max_length=128,
        ),
        model=Model(checkpoint="google-bert/bert-base-uncased"),
        train=Train(learning_rate=3e-5, num_train_epochs=5),
        evaluate=Evaluate(metric="macro_f1"),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
