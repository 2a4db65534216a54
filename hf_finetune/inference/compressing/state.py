"""The state of a compression on the disk, from which it is resumed.

DIR/compression.json          the candidates that are done, and the settings
DIR/candidates/NAME/          a candidate, in the folder of a run
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from hf_finetune.compression.pareto import Point
from hf_finetune.errors import InputError
from hf_finetune.evaluation.compression_report import p95
from hf_finetune.evaluation.differences import largest_loss, loss, metric_of
from hf_finetune.utils.files import read_json, read_object, write_json

FILE, CANDIDATES = "compression.json", "candidates"
SCHEMA = 1
SOURCE = "source"
"""Name of the classifier that is compressed, among the candidates."""
Verdict = Literal["source", "kept", "refused", "left"]
HOLDS = "the gate holds"
NORMAL = 1.96
"""Standard errors from a value to a bound of its interval."""


@dataclass(frozen=True)
class Candidate:
    """A candidate that was measured, or why it was not."""

    name: str
    verdict: Verdict
    """kept: its gate holds; refused: it does not; left: it was not tried."""
    reason: str
    steps: tuple[str, ...] = ()
    """Their repr, and that of the format."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """On the rows that choose, with intervals."""
    difference: dict[str, Any] | None = None
    """Paired difference of the metric that judges, against the source. None: it is the source, or was not scored."""
    gate: dict[str, Any] = field(default_factory=dict)
    """`rows`, `max_abs_difference` of logits, `label_agreement` and `score_shift` against the source; `stored`, the
    largest difference of the stored network from the one in memory."""
    bytes: int = 0
    """Of all its files."""
    latency: tuple[dict[str, Any], ...] = ()
    """Of each number of threads and size of a batch, see `compression.latency`."""
    rows_per_s: float = 0.0
    """From text or image to label, as `predict` does it."""
    format: str = ""
    """Number format in which `predict` computes it."""
    cold_start_s: float = 0.0
    """From the start of a process to its first prediction."""
    peak_rss_mb: float = 0.0
    """Of that process."""
    alone: dict[str, float] | None = None
    """`cold_start_s` and `peak_rss_mb` of example.py, which needs ONNX Runtime alone. None: it has none."""
    seconds: float = 0.0
    final: dict[str, Any] | None = None
    """`metrics` and `difference` on the rows that do not choose. None: it was not kept."""

    @property
    def is_measured(self) -> bool:
        """Whether it has quality, latency and size."""
        return bool(self.metrics and self.latency)

    @property
    def lost_too_much(self) -> bool:
        """Whether its gate holds, but not its loss."""
        return self.verdict == "refused" and self.is_measured and self.gate.get("refusal") is None

    @property
    def p95_ms(self) -> float:
        """95th percentile of the latency of a row alone, with all threads."""
        return p95({"latency": self.latency})

    @property
    def point(self) -> Point:
        """What the choice sees: the loss with a standard error, as the best of several is measured too good.

        What may not change a logit loses nothing.
        """
        lost = 0.0
        if self.difference is not None and self.gate.get("lossy", True):
            value, low = self.difference["value"], self.difference["low"]
            lost = -100 * (value - (value - low) / NORMAL)
        return Point(self.name, lost, self.rows_per_s, self.p95_ms, self.bytes)

    def within(self, max_loss: float) -> Candidate:
        """Return it with the verdict of its loss by `Compress.max_loss`. What the gate refuses stays so."""
        if self.verdict == "source" or not self.is_measured or self.gate.get("refusal") is not None:
            return self
        # Not `loss > max_loss`: NaN must fail.
        if self.difference is None or self.point.loss <= max_loss:
            return replace(self, verdict="kept", reason=HOLDS)
        metric = metric_of(self.difference)
        lost, uncertain = (loss(each, metric) for each in (-100 * self.difference["value"], self.point.loss))
        why = f"loses {lost}, {uncertain} with a standard error, more than {largest_loss(max_loss, metric)}"
        return replace(self, verdict="refused", reason=why)

    def if_better_than(self, source: Candidate) -> Candidate:
        """Return it, refused if it is neither faster nor smaller than the source, whatever it may lose."""
        if self.verdict != "kept" or self.rows_per_s > source.rows_per_s or self.bytes < source.bytes:
            return self
        why = f"{self.rows_per_s:.0f} rows/s and {self.bytes / 1e6:.1f} MB: neither faster nor smaller than the source"
        return replace(self, verdict="refused", reason=why, gate={**self.gate, "refusal": why})

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of result.json."""
        return asdict(self)


def refuse_finished(folder: Path) -> None:
    """Refuse a folder whose compression is finished.

    Raises:
        InputError: it is.
    """
    if (read_object(folder / FILE) or {}).get("chosen") is not None:
        raise InputError(f"--output {folder}: the compression in it is finished, there is nothing to resume")


@dataclass
class State:
    """The candidates so far."""

    folder: Path
    settings: dict[str, Any]
    """What a resumed compression must have in common."""
    candidates: list[Candidate] = field(default_factory=list)
    used_s: float = 0.0
    chosen: str | None = None
    """None: it is not finished."""

    @classmethod
    def read(cls, folder: Path, settings: dict[str, Any]) -> Self:
        """Read the state of an unfinished compression; an empty one where nothing was saved yet.

        Raises:
            InputError: it is damaged, finished, or of other settings.
        """
        path, remedy = folder / FILE, "start anew in another --output"
        if not path.exists():
            return cls(folder, settings)
        refuse_finished(folder)
        plain = read_json(path, remedy)
        try:
            candidates = [_candidate(each) for each in plain["candidates"]]
            state = cls(folder, dict(plain["settings"]), candidates, float(plain["seconds"]), plain["chosen"])
        except (LookupError, TypeError, ValueError):
            raise InputError(f"{path}: damaged; {remedy}") from None
        changed = [name for name, value in settings.items() if state.settings.get(name) != value]
        if changed:
            raise InputError(f"{path}: it was begun with another {changed[0]}; {remedy}")
        return state

    def find(self, name: str) -> Candidate | None:
        """Return a candidate by its name. None: it is not done."""
        return next((each for each in self.candidates if each.name == name), None)

    def put(self, candidate: Candidate) -> None:
        """Add a candidate, or replace the one of its name."""
        names = [each.name for each in self.candidates]
        if candidate.name in names:
            self.candidates[names.index(candidate.name)] = candidate
        else:
            self.candidates.append(candidate)

    def save(self) -> None:
        """Write compression.json."""
        plain = {
            "schema": SCHEMA,
            "settings": self.settings,
            "seconds": round(self.used_s, 2),
            "chosen": self.chosen,
            "candidates": [each.to_dict() for each in self.candidates],
        }
        write_json(self.folder / FILE, plain)


def _candidate(plain: dict[str, Any]) -> Candidate:
    return Candidate(**{**plain, "steps": tuple(plain["steps"]), "latency": tuple(plain["latency"])})
