"""Tokenizers of biological sequences, built from the training rows and saved so that plain transformers loads them.

They read raw sequences: white space is removed, small letters count as capital ones, and ambiguity codes as N or X.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice, product
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from hf_finetune.utils.config import between, configclass
from hf_finetune.utils.sequences import AMBIGUOUS, ANY, LETTERS, SequenceKind, reverse_complement

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
"""The special tokens, in the order of their numbers from 0."""
IDS = {name: number for number, name in enumerate(SPECIAL)}
MOST_LETTERS = 20_000_000
"""Letters of the training rows of which tokens are counted: the first ones."""


class OwnTokenizer(ABC):
    """A tokenizer that is built from the training rows, for a network that starts from random weights."""

    @abstractmethod
    def build(self, kind: SequenceKind, texts: Sequence[str]) -> Tokenizer:
        """Return the tokenizer, without the special tokens around a sequence.

        Args:
            texts: the sequences of the training rows, see `utils.sequences.SequenceReader`.
        """


@configclass
class CharacterTokenizer(OwnTokenizer):
    """A token for each letter."""

    def build(self, kind: SequenceKind, texts: Sequence[str]) -> Tokenizer:
        from tokenizers import Regex, pre_tokenizers

        tokenizer = _of_words([*LETTERS[kind], ANY[kind]], _plain_letters(kind))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        return tokenizer


@configclass
class KmerTokenizer(OwnTokenizer):
    """A token for each k letters, one for each place (overlapping, as in DNABERT, arXiv:2102.02611) or side by side."""

    k: Annotated[int, between(2, 12)] = 6
    """Letters of a token."""
    overlapping: bool = True
    """A token for each letter and the k - 1 after it. false: tokens side by side; the last one may be shorter."""
    vocab_size: Annotated[int, Ge(100)] = 5000
    """Largest number of tokens. All k-mers are tokens if they are no more (4^6 are 4096). Else the most frequent ones
    of the training rows are, of both strands."""

    def build(self, kind: SequenceKind, texts: Sequence[str]) -> Tokenizer:
        from tokenizers import Regex, pre_tokenizers

        normalizer = _plain_letters(kind)
        if self.overlapping:
            normalizer += _overlapping(LETTERS[kind] + ANY[kind], self.k)
        tokenizer = _of_words(self._words(kind, texts), normalizer)
        side_by_side = pre_tokenizers.Split(Regex(f".{{1,{self.k}}}"), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit() if self.overlapping else side_by_side
        return tokenizer

    def _words(self, kind: SequenceKind, texts: Sequence[str]) -> list[str]:
        letters, most = LETTERS[kind], self.vocab_size - len(SPECIAL)
        lengths = [self.k] if self.overlapping else range(1, self.k + 1)
        if sum(len(letters) ** length for length in lengths) <= most:
            return ["".join(word) for length in lengths for word in product(letters, repeat=length)]
        counts = Counter(_kmers(_begun(_both_strands(kind, texts)), self.k, self.overlapping))
        # Single letters are always known: what is left at the end of a sequence.
        base = [] if self.overlapping else list(letters)
        frequent = sorted(counts, key=lambda word: (-counts[word], word))
        return [*base, *islice((word for word in frequent if word not in base), most - len(base))]


@configclass
class BpeTokenizer(OwnTokenizer):
    """Byte-pair encoding (arXiv:1508.07909): frequent runs are tokens, as in DNABERT-2 (arXiv:2306.15006)."""

    vocab_size: Annotated[int, Ge(40)] = 1024
    """Largest number of tokens."""

    def build(self, kind: SequenceKind, texts: Sequence[str]) -> Tokenizer:
        from tokenizers import Tokenizer, models, normalizers, trainers

        tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL["unk"]))
        tokenizer.normalizer = normalizers.Sequence(_plain_letters(kind))
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=list(SPECIAL.values()),
            initial_alphabet=[*LETTERS[kind], ANY[kind]],
            limit_alphabet=len(LETTERS[kind]) + 1,
            max_token_length=16,
            show_progress=False,
        )
        tokenizer.train_from_iterator(_begun(texts), trainer)
        return tokenizer


AnyTokenizer = CharacterTokenizer | KmerTokenizer | BpeTokenizer


def build_tokenizer(
    own: OwnTokenizer, kind: SequenceKind, texts: Sequence[str], *, max_length: int, token_types: bool
) -> PreTrainedTokenizerBase:
    """Return a tokenizer for transformers, which puts [CLS] and [SEP] around a sequence, or a pair of them.

    Args:
        token_types: whether the network reads `token_type_ids`.
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = own.build(kind, texts)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(SPECIAL[name], IDS[name]) for name in ("cls", "sep")],
    )
    names: dict[str, Any] = {f"{name}_token": token for name, token in SPECIAL.items()}
    inputs = ["input_ids", *(["token_type_ids"] if token_types else []), "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length, model_input_names=inputs, **names
    )


def reading_sequences(tokenizer: PreTrainedTokenizerBase, kind: SequenceKind) -> PreTrainedTokenizerBase:
    """Return a checkpoint's tokenizer so that it reads raw sequences: with k-mers as DNABERT's, whose texts are
    `ACG CGT GTA`, it writes them itself. Any other tokenizer is returned as it is."""
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast

    words = [word for word in tokenizer.get_vocab() if set(word) <= set(LETTERS[kind])]
    k = len(words[0]) if words else 0
    if not tokenizer.is_fast or k < 3 or {*map(len, words)} != {k} or len(words) != len(LETTERS[kind]) ** k:
        return tokenizer
    backend = getattr(tokenizer, "backend_tokenizer")  # noqa: B009 (only fast tokenizers have it)
    backend.normalizer = normalizers.Sequence(_plain_letters(kind) + _overlapping(LETTERS[kind] + ANY[kind], k))
    names: dict[str, Any] = {**tokenizer.special_tokens_map, "model_input_names": tokenizer.model_input_names}
    return PreTrainedTokenizerFast(tokenizer_object=backend, name_or_path=tokenizer.name_or_path, **names)


def _of_words(words: Sequence[str], normalizer: list[Any]) -> Tokenizer:
    from tokenizers import Tokenizer, models, normalizers

    vocabulary = {word: number for number, word in enumerate([*SPECIAL.values(), *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL["unk"]))
    tokenizer.normalizer = normalizers.Sequence(normalizer)
    return tokenizer


def _plain_letters(kind: SequenceKind) -> list[Any]:
    """Return normalizers that leave capital letters of the alphabet, and N or X for ambiguity codes."""
    from tokenizers import Regex, normalizers

    steps = [normalizers.Replace(Regex(r"\s+"), "")]
    steps += [normalizers.Replace(letter.lower(), letter) for letter in LETTERS[kind]]
    other = {"dna": "U", "rna": "T"}.get(kind)
    if other is not None:
        steps.append(normalizers.Replace(Regex(f"[{other}{other.lower()}]"), LETTERS[kind][-1]))
    if kind == "protein":
        steps.append(normalizers.Replace(Regex(r"\*$"), ""))
    codes = AMBIGUOUS[kind]
    return [*steps, normalizers.Replace(Regex(f"[{codes}{codes.lower()}]"), ANY[kind])]


def _overlapping(letters: str, k: int) -> list[Any]:
    """Return normalizers that write ACGTA as `ACG CGT GTA` for k 3: tokenizers themselves never read a letter twice.

    After each capital letter, the ones that follow are inserted as small ones, nearest first: `AcgCgtGtaTaA`. Then the
    ends with fewer than k letters are removed.
    """
    from tokenizers import Regex, normalizers

    steps = []
    for distance in range(1, k):
        between_them = "(?:[A-Z][a-z]*)" * (distance - 1)
        before = f"(?<=[A-Z]{'[a-z]' * (distance - 1)})"
        steps += [
            normalizers.Replace(Regex(f"{before}(?={between_them}{letter})"), letter.lower()) for letter in letters
        ]
    steps.append(normalizers.Replace(Regex(f"[A-Z][a-z]{{0,{k - 2}}}(?![a-z])"), ""))
    steps.append(normalizers.Replace(Regex("(?<=[a-z])(?=[A-Z])"), " "))
    return steps + [normalizers.Replace(letter.lower(), letter) for letter in letters]


def _both_strands(kind: SequenceKind, texts: Sequence[str]) -> Iterable[str]:
    for text in texts:
        yield text
        if kind != "protein":
            yield reverse_complement(text)


def _begun(texts: Iterable[str]) -> Iterable[str]:
    """Yield texts up to `MOST_LETTERS` in total."""
    letters = 0
    for text in texts:
        yield text
        if (letters := letters + len(text)) > MOST_LETTERS:
            return


def _kmers(texts: Iterable[str], k: int, overlapping: bool) -> Iterable[str]:
    for text in texts:
        last = len(text) - k + 1 if overlapping else len(text)
        for start in range(0, last, 1 if overlapping else k):
            yield text[start : start + k]
