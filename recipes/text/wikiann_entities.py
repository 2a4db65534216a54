"""BERT on the people, places and organizations in sentences of Wikipedia: a tag for each word.

A row is a list of words and a list of tags. The data are a Hub id, a CoNLL file, or any file with two columns of lists.
Tags without B- and I-, such as parts of speech, are judged by the accuracy of words.

hf-finetune run wikiann_entities
hf-finetune run wikiann_entities --data.path train.conll --data.config-name None --test test.conll --label tags
hf-finetune run wikiann_entities --evaluate.constrained-decoding --method lora
"""

from hf_finetune import Hub, Model, Recipe, TextData, Train, main


def recipe() -> Recipe:
    return Recipe(
        name="wikiann-bert-entities",
        data=TextData(
            path="unimelb-nlp/wikiann",
            config_name="en",
            text="tokens",
            label="ner_tags",
            task="tokens",
            max_length=128,
        ),
        model=Model(checkpoint="google-bert/bert-base-cased"),
        # Words need more steps than sentences before the encoder tells them apart.
        train=Train(learning_rate=5e-5, num_train_epochs=3),
        hub=Hub(language="en"),
    )


if __name__ == "__main__":
    main(recipe)
