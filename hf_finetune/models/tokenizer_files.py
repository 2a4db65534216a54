"""The files of a tokenizer, checked before the library reads them: some of what they may say takes all memory.

The library has no limits of its own, and ends the process where memory is missing.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_finetune.errors import InputError
from hf_finetune.models.config import CheckpointLimits

# A text with which backtracking patterns fail at once.
PROBE = f"{'a' * 200}!"


def check_tokenizer_files(name: str, folder: Path, limits: CheckpointLimits) -> None:
    """Refuse a tokenizer of too many added tokens, or one whose normalizer or template makes texts far longer.

    Files that are no JSON objects are left to the library.

    Args:
        name: of the checkpoint, begins the message.

    Raises:
        InputError: naming the entry.
    """
    serialized, settings = _read(folder / "tokenizer.json"), _read(folder / "tokenizer_config.json")
    added = {
        "added_tokens of tokenizer.json": serialized.get("added_tokens"),
        "added_tokens_decoder of tokenizer_config.json": settings.get("added_tokens_decoder"),
        "additional_special_tokens of tokenizer_config.json": settings.get("additional_special_tokens"),
        "extra_special_tokens of tokenizer_config.json": settings.get("extra_special_tokens"),
        "added_tokens.json": _read(folder / "added_tokens.json"),
    }
    for field, tokens in added.items():
        if isinstance(tokens, list | dict) and len(tokens) > (most := limits.max_added_tokens):
            expected = f"expected {most:,} or less; put them into the vocabulary or raise --model.max-added-tokens"
            raise InputError(f"{name}: its tokenizer adds {len(tokens):,} tokens ({field}), {expected}")
    growth = 1
    for step in _steps(serialized.get("normalizer"), "normalizers"):
        longest = max((len(step[key]) for key in ("content", "prepend") if isinstance(step.get(key), str)), default=1)
        growth *= max(1, longest)
    for step in _steps(serialized.get("post_processor"), "processors"):
        growth = max(growth, *(len(step[key]) for key in ("single", "pair") if isinstance(step.get(key), list)), 1)
    if growth > limits.max_token_growth:
        raise InputError(
            f"{name}: its tokenizer makes up to {growth:,} characters or tokens of one (normalizer, post_processor of "
            f"tokenizer.json), expected {limits.max_token_growth:,} or less; restore the file or raise "
            "--model.max-token-growth"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _steps(part: Any, key: str) -> Iterator[dict[str, Any]]:
    """Yield the steps of a component, which may be a sequence of others."""
    waiting = [part]
    while waiting:
        step = waiting.pop()
        if isinstance(step, dict):
            yield step
            waiting += step[key] if isinstance(step.get(key), list) else []
