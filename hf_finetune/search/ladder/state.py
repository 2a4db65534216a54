"""The state of a climb on the disk, from which it is resumed.

DIR/rungs/recipe.json           the record of the recipe with method auto
DIR/rungs/ladder.json           the rungs that are done, and the seconds that were used
DIR/rungs/N-NAME/               the run of a rung
DIR/rungs/N-NAME/scores.npz     its scores of the validation rows; and of a constant nothing else
DIR/rungs/N-NAME/heads.npz      its classification layers, from which later rungs start
"""

from __future__ import annotations

import io
import itertools
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from hf_finetune.data.ragged import Ragged
from hf_finetune.errors import InputError
from hf_finetune.training.warm_start import FittedHead
from hf_finetune.utils.files import read_json, write_bytes, write_json

FOLDER, FILE = "rungs", "ladder.json"
CONSTANTS = ("majority", "mean", "median")
"""Rungs that are the same for every row, or for every occurrence of a word, see `Task.constants`."""
JOINED_RUNG = "linear+head"
"""The linear model and the head together, see `joined_rung`."""
SOUP_RUNG = "soup"
"""The mean of two full fine-tunings, see `soup_rung`."""
SCORES, HEADS = "scores.npz", "heads.npz"
SCHEMA = 1


@dataclass(frozen=True)
class RungRecord:
    """A rung that was climbed or left."""

    name: str
    """One of `CONSTANTS`, linear, trees, histograms, head, linear+head, trial (a short fine-tuning), top, lora, full,
    soup, student."""
    reason: str
    """What its verdict means, or why it was left."""
    folder: str | None = None
    """Below DIR/rungs. None: it was left."""
    title: str | None = None
    """Of a model without a network, such as tfidf+LinearModel."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """On the validation rows, with intervals."""
    comparison: dict[str, Any] | None = None
    """With the best rung before it. None: the first one, or it was left."""
    seconds: float = 0.0
    ended_s: float = 0.0
    """Seconds of the climb at its end."""
    epochs: float | None = None
    out_of_fold: bool = False
    """Whether the metrics and the comparison are of all rows, see `ladder.folds`."""
    preferred: bool = False
    """Whether it was taken without a proof by the metric that judges, see `decisions.why_preferred`."""
    layer: int | None = None
    """Of the rung head: the layer that it reads, if the layers above it were dropped."""
    promoted: bool = False
    """Whether its model became the result in DIR."""

    @property
    def is_better(self) -> bool:
        """Whether the paired test found it better than the best one before it; the first one has none before it."""
        return self.folder is not None and (self.comparison is None or self.comparison["verdict"] == "better")

    @property
    def tells_apart(self) -> bool:
        """Whether a permutation test found so, see `Comparison`."""
        return self.comparison is not None and bool(self.comparison.get("tells_apart"))

    @property
    def is_constant(self) -> bool:
        """Whether it reads no features."""
        return self.name in CONSTANTS

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of result.json: `verdict` is left where there was no time or no need for the rung."""
        verdict = "left" if self.folder is None else "first" if self.comparison is None else self.comparison["verdict"]
        return {**asdict(self), "verdict": verdict}


@dataclass
class LadderState:
    """The rungs of a climb so far."""

    folder: Path
    """DIR/rungs."""
    rungs: list[RungRecord] = field(default_factory=list)
    used_s: float = 0.0
    current: dict[str, Any] | None = None
    """`name` and `epochs` of a rung that was begun, the `rows` of a head, and the `layer_rows` that chose its layer."""
    folds: int | None = None
    """In how many folds all rows judge. None: the validation rows do."""
    scored: dict[str, int] = field(default_factory=dict)
    """How many rows of a split are scored, where the time holds a part of them."""
    tested: list[str] = field(default_factory=list)
    """What the whole climb may compare, by whose number the level of the paired tests is divided."""
    compared_rows: int | None = None
    """On how many rows it is compared what the head reads: a resumed climb with more time reads the same."""

    @property
    def comparisons_left(self) -> int:
        """By how many the level of the next test is divided: a comparison that has found a better model leaves its
        share of the level to the others, which keeps the level of all together (Holm, 1979). So does a rung that was
        left for want of time, which no result has decided, and what needs it."""
        free = {rung.name for rung in self.rungs if rung.folder is None or (rung.comparison and rung.is_better)}
        if (head := self.find("head")) is not None and head.folder is None:
            free.add(JOINED_RUNG)
        return max(1, len(set(self.tested) - free))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the state of an unfinished climb; an empty one where nothing was saved yet.

        Raises:
            InputError: it is damaged, or of another version.
        """
        path, remedy = folder / FILE, "start anew in another --output"
        if not path.exists():
            return cls(folder)
        plain = read_json(path, remedy)
        if plain.get("schema") != SCHEMA:
            raise InputError(f"{path}: schema {plain.get('schema')}, expected {SCHEMA}; {remedy}")
        try:
            rungs = [RungRecord(**rung) for rung in plain["rungs"]]
            known = plain.get("folds"), plain.get("scored", {}), plain.get("tested", []), plain.get("compared_rows")
            return cls(folder, rungs, float(plain["seconds"]), plain["current"], *known)
        except (LookupError, TypeError, ValueError):
            raise InputError(f"{path}: damaged; {remedy}") from None

    def save(self, *, before: str | None = None) -> None:
        """Write ladder.json.

        Args:
            before: name of the first rung that is left out, as it is not on the disk yet. None: all are written.
        """
        rungs = list(itertools.takewhile(lambda rung: rung.name != before, self.rungs))
        plain = {
            "schema": SCHEMA,
            "seconds": round(self.used_s, 2),
            "rungs": [asdict(rung) for rung in rungs],
            "folds": self.folds,
            "scored": self.scored,
            "tested": self.tested,
            "compared_rows": self.compared_rows,
            "current": self.current,
        }
        write_json(self.folder / FILE, plain)

    def find(self, name: str) -> RungRecord | None:
        """Return the record of a rung, or None if it was neither climbed nor left."""
        return next((rung for rung in self.rungs if rung.name == name), None)

    @property
    def best(self) -> RungRecord | None:
        """The last rung that was better than those before it, or preferred to another model. None: there is no rung
        yet."""
        return next((rung for rung in reversed(self.rungs) if rung.is_better or self._is_preferred(rung)), None)

    def _is_preferred(self, rung: RungRecord) -> bool:
        # What is preferred to the constant by a prior may have no signal.
        is_model = rung.comparison is not None and rung.comparison["against"] not in CONSTANTS
        return rung.preferred and (is_model or rung.tells_apart)

    @property
    def chosen(self) -> RungRecord | None:
        """The rung whose model is the result. None: there is no model yet."""
        return next((rung for rung in reversed(self.rungs) if rung.promoted), None)

    @property
    def beats_constant(self) -> bool:
        """Whether a rung so far is better than the constant, or tells classes apart."""
        return self.best is not None and not self.best.is_constant

    @property
    def has_signal(self) -> bool:
        """Whether a short fine-tuning, where one was needed, has found a signal."""
        trial = self.find("trial")
        return trial is None or trial.is_better or trial.tells_apart

    def next_folder(self, name: str) -> str:
        """Return the folder of the next rung."""
        return f"{sum(rung.folder is not None for rung in self.rungs) + 1}-{name}"


def write_scores(folder: Path, scores_NC: Any) -> None:
    """Write the settled scores of the validation rows; those of words are `Ragged`."""
    arrays = vars(scores_NC) if isinstance(scores_NC, Ragged) else {"values": scores_NC}
    _write_arrays(folder / SCORES, {name: arrays[name] for name in ("values", "offsets") if name in arrays})


def read_scores(folder: Path) -> Any:
    """Read what `write_scores` wrote.

    Raises:
        InputError: it is damaged.
    """
    arrays = _read_arrays(folder / SCORES)
    return Ragged(arrays["values"], arrays["offsets"]) if "offsets" in arrays else arrays["values"]


def write_heads(folder: Path, heads: tuple[FittedHead, ...]) -> None:
    """Write classification layers."""
    arrays: dict[str, np.ndarray] = {}
    for number, head in enumerate(heads):
        arrays[f"weight{number}"] = head.weight_CD.numpy()
        arrays[f"bias{number}"] = head.bias_C.numpy()
        arrays[f"explained{number}"] = np.array(head.explained)
    _write_arrays(folder / HEADS, arrays)


def read_heads(folder: Path) -> tuple[FittedHead, ...]:
    """Read what `write_heads` wrote; empty where there is nothing.

    Raises:
        InputError: it is damaged.
    """
    if not (folder / HEADS).exists():
        return ()
    arrays = _read_arrays(folder / HEADS)
    return tuple(
        FittedHead(
            torch.from_numpy(arrays[f"weight{number}"]),
            torch.from_numpy(arrays[f"bias{number}"]),
            float(arrays[f"explained{number}"]),
        )
        for number in range(len(arrays) // 3)
    )


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    write_bytes(path, content.getvalue())


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__}); start anew in another --output") from None
