"""Small data of each task, for the contract that every task keeps. A new task is one line of `CASES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from helpers.data_files import parquet_file
from PIL import Image

METHODS = ("full", "lora", "head", "top")
OPENINGS = (
    "a good film",
    "a bad film",
    "the plot is bad",
    "the actors are good",
    "the end of a film",
    "a plot in time",
)
BASES = {"good": "tata", "bad": "ggcc", "film": "acgt", "plot": "cctg"}
SMALL = "{num_hidden_layers: 2, hidden_size: 16, num_attention_heads: 2, intermediate_size: 24}"


def _one_column(texts: list[str]) -> dict[str, list]:
    return {"text": texts}


@dataclass(frozen=True)
class TaskCase:
    """A task with labels that can be learned."""

    name: str
    of_text: Callable[[str], Any]
    """Returns the label of a text."""
    of_shade: Callable[[int], Any] | None = None
    """Returns the label of a gray image from 0 to 255. None: the case has no images."""
    columns: Callable[[list[str]], dict[str, list]] = _one_column
    """Returns the input columns of texts."""
    flags: tuple[str, ...] = ()
    data_flags: tuple[str, ...] = ()
    """Those that say what the data are, for `doctor`, too."""
    methods: tuple[str, ...] = METHODS
    standalone: bool = True
    """Whether a stock class holds the model."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of its rows."""
        return ("text",) if self.of_shade is None else ("text", "image")

    def write(self, folder: Path, kind: str, count: int = 40) -> Path:
        """Write rows, and return what `train` reads."""
        if kind == "text":
            texts = [f"{OPENINGS[i % len(OPENINGS)]} {'very' if i % 4 else 'not'} {i}" for i in range(count)]
            path = folder / f"{self.name}.parquet"
            return parquet_file(path, **self.columns(texts), label=[self.of_text(text) for text in texts])
        assert self.of_shade is not None, "the case has images"
        images = folder / f"{self.name}-images"
        images.mkdir()
        shades = np.random.default_rng(0).permutation(np.linspace(0, 255, count).astype(int)).tolist()
        for i, shade in enumerate(shades):
            Image.fromarray(np.full((24, 24, 3), shade, np.uint8)).save(images / f"{i}.png")
        rows = {"file_name": [f"{i}.png" for i in range(count)], "label": [self.of_shade(shade) for shade in shades]}
        parquet_file(images / "metadata.parquet", **rows)
        return images


def _class_of(text: str) -> str:
    return "good" if "good" in text else "other"


def _names(text: str) -> list[str]:
    return [name for name in BASES if name in text]


def _level(text: str) -> str:
    return "low" if "bad" in text else "high" if "good" in text else "middle"


def _number(text: str) -> float:
    """Far from 0 and 1, so that a scale which is not folded shows."""
    return 1000.5 + 100 * ("good" in text) + len(text)


def _entities(text: str) -> list[str]:
    kinds = {"good": "B-OPINION", "bad": "B-OPINION", "very": "I-OPINION", "film": "B-THING", "plot": "B-THING"}
    return [kinds.get(word, "O") for word in text.split()]


def _words(texts: list[str]) -> dict[str, list]:
    return {"tokens": [text.split() for text in texts]}


def _pairs(texts: list[str]) -> dict[str, list]:
    return {"sentence1": texts, "sentence2": [text.split(" ", 2)[-1] for text in texts[1:] + texts[:1]]}


def _dna(texts: list[str]) -> dict[str, list]:
    """Motifs in random letters."""
    rng = np.random.default_rng(0)
    return {"text": ["".join([*map(BASES.get, _names(t)), *rng.choice(list("acgt"), 9)]) for t in texts]}  # type: ignore[arg-type]


CASES = (
    TaskCase("single-label", _class_of, lambda shade: "dark" if shade < 128 else "bright"),
    TaskCase(
        "multi-label",
        _names,
        lambda shade: [name for name, has in (("dark", shade < 128), ("mid", 64 < shade < 192)) if has],
    ),
    TaskCase(
        "ordinal",
        _level,
        lambda shade: ("low", "middle", "high")[shade // 86],
        data_flags=("--label-order", "low,middle,high"),
    ),
    TaskCase("regression", _number, lambda shade: 500 + shade / 3),
    # Windows of 12 tokens, which are shorter than most sentences.
    TaskCase("entities", _entities, columns=_words, flags=("--max-length", "12")),
    TaskCase(
        "tags",
        lambda text: [word[0].upper() for word in text.split()],
        columns=_words,
        flags=("--objective.class-weights", "Balanced", "--objective.logit-adjustment", "0.5"),
        methods=("top",),
    ),
    # Each method of pairs once: what differs from single texts is how they are read.
    TaskCase("pairs", _class_of, columns=_pairs, methods=("full", "head")),
    TaskCase("similarity", _number, columns=_pairs, methods=("lora", "top")),
    # Most texts have several chunks of four words.
    TaskCase(
        "chunks",
        _level,
        flags=("--long", "chunk", "--max-length", "6"),
        data_flags=("--label-order", "low,middle,high"),
        methods=("lora", "head", "top"),
        standalone=False,
    ),
    TaskCase(
        "dna",
        _class_of,
        columns=_dna,
        data_flags=("--sequence", "dna"),
        flags=(
            "--model",
            "bert",
            "--model.from-config",
            SMALL,
            "--tokenizer",
            "{type: KmerTokenizer, k: 2}",
        ),
        # Random weights train as a whole; `test_sequence_runs` has adapters and layers of a protein model.
        methods=("full",),
    ),
)
