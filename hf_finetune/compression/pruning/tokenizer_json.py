"""A tokenizer of fewer tokens, as tokenizer.json has it.

A text whose tokens all remain is tokenized as before: WordPiece takes the longest match, Unigram the best path and BPE
the first merges, and what none of them took for a text makes no difference to it. Any other text is split into smaller
pieces.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from hf_finetune.errors import InputError

Document = dict[str, Any]
"""The content of tokenizer.json."""
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
WORD_STARTS = "\u0120\u2581"
"""Marks of a space before a token, of BPE by bytes and of SentencePiece."""
FIRST_IDS = 10
"""Tokens of the lowest ids, which always remain: some classes of transformers expect those of the padding and the
unknown token in their places."""


def token_ids(document: Document) -> dict[str, int]:
    """Return the id of each token, with those that were added to the vocabulary.

    Raises:
        InputError: a tokenizer that does not split words into pieces.
    """
    model = document["model"]
    if model["type"] in ("WordPiece", "BPE"):
        tokens = dict(model["vocab"])
    elif model["type"] == "Unigram":
        tokens = {token: number for number, (token, _) in enumerate(model["vocab"])}
    else:
        raise InputError(
            f"vocabulary: expected a tokenizer of WordPiece, BPE or Unigram, got {model['type']}, for which a word "
            "without a token of its own is unknown; leave the step out"
        )
    return tokens | {added["content"]: added["id"] for added in document["added_tokens"]}


def safe_ids(document: Document) -> set[int]:
    """Return the ids that have to remain so that what is known stays known.

    A character that is no token by itself can still become unknown, where a text is split at another place.

    They are the added (special) and the first tokens, the unknown one, single characters and bytes, whether they begin
    a word or continue it, and pieces with a character that is no token by itself.
    """
    model, tokens = document["model"], token_ids(document)
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    safe = {added["id"] for added in document["added_tokens"]} | set(range(FIRST_IDS)) & set(tokens.values())
    if model.get("unk_token") in tokens:
        safe.add(tokens[model["unk_token"]])
    if model["type"] == "Unigram":
        # From the lowest score follows that of an unknown character.
        scores = [score for _, score in model["vocab"]]
        safe |= {scores.index(min(scores)), model["unk_id"] or 0}
    for token, number in tokens.items():
        text = token.removeprefix(prefix).removesuffix(suffix)
        first = text[:1] if text == token or not prefix else prefix + text[:1]
        pieces = [first, *(prefix + character for character in text[1:])]
        # Of the tokens of BPE, merges make all but the single characters.
        is_base = len(text) < 2 or BYTE.fullmatch(token)
        if is_base or (model["type"] != "BPE" and any(piece not in tokens for piece in pieces)):
            safe.add(number)
    return safe


def is_word_part(document: Document, token: str, letters: int) -> bool:
    """Return whether a token continues a word, as WordPiece marks it, or has few letters.

    Args:
        letters: at most, without the marks of the begin and the end of a word.
    """
    model = document["model"]
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    text = token.removeprefix(prefix).removesuffix(suffix).lstrip(WORD_STARTS)
    return (bool(prefix) and token.startswith(prefix)) or len(text) <= letters


def with_parts(document: Document, ids: Collection[int]) -> set[int]:
    """Return the ids, and those of the tokens that BPE merges to make them."""
    if document["model"]["type"] != "BPE":
        return set(ids)
    tokens = token_ids(document)
    parts: dict[int, set[int]] = defaultdict(set)
    for first, second, merged in _merges(document):
        parts[tokens[merged]] |= {tokens[first], tokens[second]}
    closed, waiting = set(ids), list(ids)
    while waiting:
        new = parts[waiting.pop()] - closed
        closed |= new
        waiting += new
    return closed


def trimmed(document: Document, ids: Collection[int]) -> Document:
    """Return the tokenizer of the tokens with these ids, which are numbered anew in the same order.

    Args:
        ids: with all of `safe_ids`, and closed under `with_parts`.
    """
    new = {old: number for number, old in enumerate(sorted(ids))}
    result = copy.deepcopy(document)
    model = result["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new]
        model["unk_id"] = None if model["unk_id"] is None else new[model["unk_id"]]
    else:
        model["vocab"] = {token: new[number] for token, number in model["vocab"].items() if number in new}
    if model["type"] == "BPE":
        made = [{first, second, merged} <= model["vocab"].keys() for first, second, merged in _merges(document)]
        model["merges"] = [merge for merge, remains in zip(model["merges"], made, strict=True) if remains]
    for added in result["added_tokens"]:
        added["id"] = new[added["id"]]
    result["post_processor"] = _renumbered(result.get("post_processor"), new)
    if result.get("padding"):
        result["padding"]["pad_id"] = new[result["padding"]["pad_id"]]
    return result


def _merges(document: Document) -> list[tuple[str, str, str]]:
    """Return the two parts and the result of each merge."""
    prefix = document["model"].get("continuing_subword_prefix") or ""
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in document["model"]["merges"])
    return [(first, second, first + second.removeprefix(prefix)) for first, second in pairs]


def _renumbered(processor: Any, new: Mapping[int, int]) -> Any:
    """Return a post-processor with new ids of special tokens."""
    if not isinstance(processor, dict):
        return processor
    result = dict(processor)
    if "processors" in result:
        result["processors"] = [_renumbered(each, new) for each in result["processors"]]
    for end in ("sep", "cls"):
        if isinstance(result.get(end), list):
            token, number = result[end]
            result[end] = [token, new[number]]
    if isinstance(result.get("special_tokens"), dict):
        result["special_tokens"] = {
            name: {**special, "ids": [new[number] for number in special["ids"]]}
            for name, special in result["special_tokens"].items()
        }
    return result
