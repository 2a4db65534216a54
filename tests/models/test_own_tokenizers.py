"""Tokenizers of sequences: tokens that a person can work out, and the files that plain transformers loads."""

import itertools
import typing
from pathlib import Path

import pytest
from transformers import AutoTokenizer, BertConfig, BertTokenizer, PreTrainedTokenizerBase

from hf_finetune import BpeTokenizer, CharacterTokenizer, InputError, KmerTokenizer, Model, Recipe, TextData
from hf_finetune.config.rules import check
from hf_finetune.models.checkpoint_config import load_config
from hf_finetune.models.config import CHECKPOINT_LIMITS
from hf_finetune.models.own_checkpoint import family_checkpoint, is_family, with_tokenizer
from hf_finetune.models.own_tokenizers import SPECIAL, AnyTokenizer, OwnTokenizer, build_tokenizer, reading_sequences

TEXTS = ["ACGTACGTTTGA", "ACGTNACGT", "GGGACGT"]


def tokens(own: OwnTokenizer, text: str, kind="dna", texts=TEXTS) -> str:
    tokenizer = build_tokenizer(own, kind, texts, max_length=64, token_types=False)
    return " ".join(tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])[1:-1])


@pytest.mark.parametrize(
    ("own", "kind", "text", "expected"),
    [
        (CharacterTokenizer(), "dna", "ac gTuRn", "A C G T T N N"),
        (CharacterTokenizer(), "rna", "ACGTu", "A C G U U"),
        (CharacterTokenizer(), "protein", "mkUb*", "M K X X"),
        (CharacterTokenizer(), "dna", "AC-GT", "A C [UNK] G T"),
        (KmerTokenizer(k=3), "dna", "acgta", "ACG CGT GTA"),
        (KmerTokenizer(k=4), "dna", "ACGTACG", "ACGT CGTA GTAC TACG"),
        (KmerTokenizer(k=3), "dna", "ACGNACG", "ACG [UNK] [UNK] [UNK] ACG"),
        (KmerTokenizer(k=3), "dna", "AC", ""),
        (KmerTokenizer(k=2), "protein", "MKTL*", "MK KT TL"),
        (KmerTokenizer(k=3, overlapping=False), "dna", "acg tacg", "ACG TAC G"),
        (KmerTokenizer(k=3, overlapping=False), "rna", "ACGUA", "ACG UA"),
    ],
)
def test_tokens(own: OwnTokenizer, kind, text: str, expected: str) -> None:
    assert tokens(own, text, kind) == expected


def test_overlapping_kmers_are_those_of_a_window() -> None:
    text = "ACGGTTACAGTCCATGNACGTTTAACG"
    for k in (2, 3, 5):
        windows = [text[i : i + k] for i in range(len(text) - k + 1)]
        expected = ["[UNK]" if "N" in window else window for window in windows]
        assert tokens(KmerTokenizer(k=k, vocab_size=5000), text).split() == expected


def test_with_too_many_kmers_the_most_frequent_of_both_strands_are_tokens() -> None:
    tokenizer = build_tokenizer(
        KmerTokenizer(k=8, vocab_size=100), "dna", ["A" * 30, "AACCGGTTAC"], max_length=64, token_types=False
    )
    vocabulary = tokenizer.get_vocab()
    assert {"AAAAAAAA", "TTTTTTTT", "AACCGGTT"} <= vocabulary.keys() and len(vocabulary) <= 100
    assert all(len(word) == 8 for word in vocabulary.keys() - set(SPECIAL.values()))


def test_bpe_joins_what_is_frequent() -> None:
    assert tokens(BpeTokenizer(vocab_size=40), "ACGTACGT", texts=["ACGT" * 20] * 5).split()[0].startswith("ACGT")
    assert tokens(BpeTokenizer(vocab_size=40), "N", texts=["ACGT" * 20] * 5) == "N"


@pytest.mark.parametrize("own", [kind() for kind in typing.get_args(AnyTokenizer)], ids=lambda o: type(o).__name__)
def test_plain_transformers_loads_it(own: OwnTokenizer, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(own, "dna", TEXTS, max_length=10, token_types=True)
    BertConfig().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("acgtacg tacgtacgtac", "ACGTNRYACGT"):
        first, second = tokenizer(text, "ACGTAC", truncation=True), loaded(text, "ACGTAC", truncation=True)
        assert first["input_ids"] == second["input_ids"] and len(first["input_ids"]) <= 10
        assert set(first["token_type_ids"]) == {0, 1}
    assert [loaded.pad_token_id, loaded.unk_token_id, loaded.mask_token_id] == [0, 1, 4]
    assert loaded.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("family", ["bert", "modernbert", "esm"])
def test_the_config_of_a_family_gets_the_tokens(family: str) -> None:
    changes = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    blank = family_checkpoint(family, CHECKPOINT_LIMITS)
    local = with_tokenizer(blank, KmerTokenizer(k=3), "dna", TEXTS, from_config=changes, max_length=32)
    config, tokenizer = load_config(local, changes), AutoTokenizer.from_pretrained(local.folder)
    assert config.model_type == family and config.hidden_size == 16
    assert config.vocab_size == len(tokenizer) == 4**3 + 5 and config.pad_token_id == 0
    assert ("token_type_ids" in tokenizer.model_input_names) == (family == "bert")
    folder = local.folder
    del local, blank
    assert not folder.exists(), "the temporary folder goes with its checkpoint"


def test_the_kmers_of_a_checkpoint_are_written_by_its_tokenizer(tmp_path: Path) -> None:
    """DNABERT's vocabulary has k-mers, and expects them with spaces between."""
    words = ["".join(letters) for letters in itertools.product("ATCG", repeat=3)]
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL.values(), *words]))
    BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=False).save_pretrained(tmp_path)
    BertConfig().save_pretrained(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert plain("ACGTA")["input_ids"] == [2, 1, 3], "a sequence is one unknown word"
    tokenizer = reading_sequences(plain, "dna")
    tokenizer.save_pretrained(tmp_path / "saved")
    BertConfig().save_pretrained(tmp_path / "saved")
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        ids = each("acgTANgta")["input_ids"]
        assert each.convert_ids_to_tokens(ids) == ["[CLS]", "ACG", "CGT", "GTA", *["[UNK]"] * 3, "GTA", "[SEP]"]
    assert reading_sequences(plain, "protein") is plain


def test_names_of_families() -> None:
    assert is_family("bert") and not is_family("google-bert/bert-base-uncased") and not is_family("")


@pytest.mark.parametrize(
    ("model", "sequence", "message"),
    [
        ({"from_config": None}, "dna", "model.tokenizer: expected null without model.from_config: the weights"),
        ({}, None, r"model.tokenizer: expected null without data.sequence \(--sequence dna, rna or protein\)"),
    ],
)
def test_only_with_random_weights_and_sequences(model: dict, sequence, message: str) -> None:
    fields = {"checkpoint": "bert", "from_config": {}, "tokenizer": CharacterTokenizer(), **model}
    with pytest.raises(InputError, match=message):
        check(Recipe(name="x", data=TextData(path="x.csv", sequence=sequence), model=Model(**fields)))
