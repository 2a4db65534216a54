"""Smaller vocabularies: texts of tokens that remain are tokenized as before, whatever the kind of tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers.checkpoints import load_classifier
from helpers.models import logits, randomized
from helpers.tiny import tiny_text_checkpoint, tiny_tokenizer
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from hf_finetune.compression.pruning.tokenizer_json import Document, safe_ids, token_ids, trimmed, with_parts
from hf_finetune.compression.pruning.vocabulary import TrimVocabulary, rounded_to_half, spare_ids, trim_tokenizer
from hf_finetune.compression.steps import StepRows
from hf_finetune.data.inputs import ImageInputs, TextInputs
from hf_finetune.pipeline.save import save_network
from hf_finetune.tasks.single_label import SingleLabel
from hf_finetune.tasks.trained_model import TrainedModel

TEXTS = ["a good film", "the worst game of the season", "they play well and we win", "zzz 42"]
OTHER = "their plot was boring"


def document(tokenizer: Any) -> Document:
    return json.loads(tokenizer.to_str())


def wordpiece() -> Tokenizer:
    return tiny_tokenizer().backend_tokenizer


def bpe() -> Tokenizer:
    """Byte-level: every text has tokens."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    merges = [("o", "o"), ("g", "oo"), ("goo", "d"), ("f", "i"), ("l", "m"), ("fi", "lm"), ("e", "r"), ("p", "l")]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(letters), *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def unigram() -> Tokenizer:
    letters = [(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyz0123456789▁"]
    words = [(f"▁{word}", -5.0) for word in ("a", "good", "film", "the", "their", "plot", "worst", "game", "ß")]
    tokenizer = Tokenizer(models.Unigram([("<pad>", 0.0), ("<unk>", 0.0), *letters, *words, ("rare", -12.0)], 1, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "<unk>", "<mask>"])
    return tokenizer


@pytest.mark.parametrize("make", [wordpiece, bpe, unigram])
def test_texts_of_remaining_tokens_are_tokenized_as_before(make: Any) -> None:
    whole = make()
    old = document(whole)
    used = {number for text in TEXTS for number in whole.encode(text).ids}
    ids = sorted(with_parts(old, used | safe_ids(old)))
    smaller = Tokenizer.from_str(json.dumps(trimmed(old, ids)))
    assert smaller.get_vocab_size() == len(ids) < whole.get_vocab_size()
    for text in TEXTS:
        assert smaller.encode(text).tokens == whole.encode(text).tokens
        assert [ids[number] for number in smaller.encode(text).ids] == whole.encode(text).ids
    # A word whose token is gone is split, and says the same letters; nothing becomes unknown.
    unknown = {"[UNK]", "<unk>"}
    assert smaller.encode(OTHER).tokens != whole.encode(OTHER).tokens or make is bpe
    for text in (OTHER, "quite other words", "ß"):
        assert unknown.isdisjoint(smaller.encode(text).tokens) or not unknown.isdisjoint(whole.encode(text).tokens)


def test_bpe_keeps_the_parts_of_its_tokens() -> None:
    old = document(bpe())
    tokens = token_ids(old)
    closed = with_parts(old, {tokens["good"]})
    assert {tokens[part] for part in ("good", "goo", "oo", "g", "o", "d")} == closed
    merges = trimmed(old, closed | safe_ids(old))["model"]["merges"]
    assert [tuple(merge) for merge in merges] == [("o", "o"), ("g", "oo"), ("goo", "d")]


def test_the_most_likely_further_tokens() -> None:
    old = document(wordpiece())
    tokens = token_ids(old)
    weight = torch.randn(len(tokens), 8, generator=torch.Generator().manual_seed(0))
    weight[tokens["year"]] = weight[tokens["film"]] * 2
    others = set(tokens.values()) - {tokens[word] for word in ("about", "would", "year", "[MASK]")}
    assert spare_ids(old, weight, [tokens["film"]], others, 1) == [tokens["about"]]
    assert set(spare_ids(old, weight, [tokens["film"]], others, 2)) == {tokens["about"], tokens["year"]}
    # `year` has few letters, too, but not until a token in use has a y.
    assert spare_ids(old, weight, [tokens["film"], tokens["year"], tokens["##y"]], others, 1) == [tokens["year"]]


def test_trimmed_classifier_loads_with_plain_transformers(tmp_path: Path) -> None:
    for family in ("bert", "roberta", "distilbert", "mpnet", "deberta-v2", "modernbert", "albert", "electra"):
        folder = tiny_text_checkpoint(tmp_path / family, family)
        model = randomized(load_classifier(folder, task="text-classification", labels=["no", "yes"]).model)
        inputs = TextInputs(AutoTokenizer.from_pretrained(folder), 64)
        classifier = TrainedModel(model=model, inputs=inputs, task=SingleLabel(("no", "yes")))
        rows = Dataset.from_dict({"text": TEXTS, "row": list(range(len(TEXTS)))})
        step = TrimVocabulary(spare=3)
        assert step.refusal(classifier) is None
        smaller = step.apply(classifier, StepRows(rows, rows, classifier))
        assert isinstance(smaller.inputs, TextInputs)
        assert smaller.model.config.vocab_size == len(smaller.inputs.tokenizer) < model.config.vocab_size

        place = tmp_path / f"{family}-smaller"
        save_network(smaller.model, smaller.inputs, place, "text-classification", half_embeddings=True)  # type: ignore[arg-type]
        stored = load_file(place / "model" / "model.safetensors")
        assert {name for name, value in stored.items() if value.dtype == torch.float16} == {
            name for name, value in stored.items() if len(value) == len(smaller.inputs.tokenizer)
        }
        tokenizer = AutoTokenizer.from_pretrained(place / "model")
        again = AutoModelForSequenceClassification.from_pretrained(
            place / "model", attn_implementation=model.config._attn_implementation
        )
        assert again.dtype == torch.float32
        embedding = model.get_input_embeddings()
        embedding.weight.data = rounded_to_half(embedding.weight.data)
        expected = logits(model, inputs.collate(inputs.encode_batch({"text": TEXTS})))
        torch.testing.assert_close(logits(again, tokenizer(TEXTS, padding=True, return_tensors="pt")), expected)
        assert tokenizer(OTHER)["input_ids"] != inputs.tokenizer(OTHER)["input_ids"]


def test_what_has_no_vocabulary_to_trim() -> None:
    def why(inputs: Any) -> str:
        return str(TrimVocabulary().refusal(SimpleNamespace(inputs=inputs)))  # type: ignore[arg-type]

    assert why(ImageInputs(None)) == "it classifies images, which have no vocabulary"  # type: ignore[arg-type]
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2}, unk_token="[UNK]"))
    assert "got WordLevel" in why(TextInputs(PreTrainedTokenizerFast(tokenizer_object=words), 8))


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "distilbert"])
def test_tokenizer_classes_of_transformers(family: str) -> None:
    """Each builds its tokenizer anew from the vocabulary of the file."""
    old = document({"roberta": bpe, "xlm-roberta": unigram, "distilbert": wordpiece}[family]())
    vocabulary = old["model"]["vocab"]
    whole: Any = {
        "roberta": lambda: RobertaTokenizer(vocab=vocabulary, merges=[tuple(m) for m in old["model"]["merges"]]),
        "xlm-roberta": lambda: XLMRobertaTokenizer(
            vocab=[("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), *map(tuple, vocabulary[1:])]
        ),
        "distilbert": lambda: DistilBertTokenizer(vocab=vocabulary),
    }[family]()
    now = document(whole.backend_tokenizer)
    used = {number for text in TEXTS for number in whole(text)["input_ids"]}
    ids = sorted(with_parts(now, used | safe_ids(now)))
    smaller: Any = trim_tokenizer(whole, ids, AutoConfig.for_model(family))
    assert type(smaller) is type(whole) and len(smaller) == len(ids) < len(whole)
    for text in (*TEXTS, f"a {whole.mask_token} film"):
        assert [ids[number] for number in smaller(text)["input_ids"]] == whole(text)["input_ids"]
