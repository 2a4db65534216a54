"""The steps of compression: what pruning and quantization implement, and what `compress` chains.

A candidate of `compress` is a chain: steps on the network, one after the other in memory, and a format that writes it.
Each is a frozen dataclass (`configclass`), whose repr goes into result.json and the card.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from datasets import Dataset

from hf_finetune.tasks.trained_model import TrainedModel


@dataclass(frozen=True)
class StepRows:
    """Canonical rows that steps and formats may read. No candidate is ever judged by one of them."""

    train: Dataset
    """Labeled rows, by which a step trains: those of the training split, or of the part that is drawn for it."""
    calibration: Dataset
    """Some of them, drawn at random: for importance scores, least squares and the ranges of activations."""
    source: TrainedModel
    """The classifier before all steps: the teacher of one that trains."""
    seed: int = 0
    seconds: float | None = None
    """Most seconds of a step that trains. None: no limit but its own."""


class Step(ABC):
    """A change of the network or of its tokenizer: pruning, distillation from the unpruned self."""

    name: ClassVar[str]
    """In tables and names of folders, of one or two words: `vocabulary`, `feed-forward`."""
    lossy: ClassVar[bool] = True
    """Whether logits of any text may change. False: they have to be equal within `pipeline.parity.TOLERANCE`."""

    @property
    def label(self) -> str:
        """The name, with the numbers of its fields that are not the default ones: `layers-3`."""
        changed = [getattr(self, f.name) for f in fields(cast(Any, self)) if getattr(self, f.name) != f.default]
        return "-".join([self.name, *(f"{value:g}" for value in changed if isinstance(value, int | float))])

    @property
    def amount(self) -> float:
        """How much it removes, to compare it with another step of its name."""
        return 0.0

    @abstractmethod
    def refusal(self, classifier: TrainedModel) -> str | None:
        """Return why the step does not apply, as the end of a sentence: `it classifies images, which have no
        vocabulary`. None: it applies."""

    @abstractmethod
    def apply(self, classifier: TrainedModel, rows: StepRows) -> TrainedModel:
        """Return the changed classifier: `replace(classifier, model=..., inputs=...)`. The given one stays as it is.

        The model keeps its class of transformers if its config can express the change.

        Raises:
            InputError: it does not apply for a reason that only the rows show. The candidate is left out, the reason
                is in the report.
        """

    def row_passes(self, rows: StepRows) -> int:
        """Return its cost as a number of rows whose logits are computed, for the estimate of the time."""
        return 2 * len(rows.calibration)


class Format(ABC):
    """How the end of a chain is stored and computed: safetensors or ONNX, in which number format."""

    part: ClassVar[Literal["model", "onnx"]]
    """What it writes: model/ (or encoder/), in the folder of a run; or the content of its onnx/."""

    @property
    @abstractmethod
    def name(self) -> str:
        """In tables and names of folders: `float32`, `onnx-int8`."""

    @property
    @abstractmethod
    def lossy(self) -> bool:
        """Whether logits differ by more than the rounding of float32."""

    @abstractmethod
    def refusal(self, classifier: TrainedModel) -> str | None:
        """Return why the classifier cannot be written, as `Step.refusal`. None: it can."""

    @abstractmethod
    def write(self, classifier: TrainedModel, rows: StepRows, folder: Path) -> None:
        """Write all files of the artifact to a new, empty folder, which `load_trained` reads.

        Args:
            classifier: as loaded from its files, which are those to copy: steps were applied and saved before.

        Raises:
            InputError: a package is missing, or a library cannot write this network.
        """


@dataclass(frozen=True)
class Chain:
    """A candidate: steps in their order, and the format."""

    steps: tuple[Step, ...]
    format: Format

    @property
    def name(self) -> str:
        """`vocabulary+feed-forward+onnx-int8`: its name in tables, and that of its folder."""
        return "+".join([*(step.label for step in self.steps), self.format.name])

    @property
    def lossy(self) -> bool:
        """Whether logits may change."""
        return self.format.lossy or any(step.lossy for step in self.steps)

    def refusal(self, classifier: TrainedModel) -> str | None:
        """Return why the chain does not apply to the source, by the first part that does not. None: it applies."""
        reasons = [*(step.refusal(classifier) for step in self.steps), self.format.refusal(classifier)]
        return next((reason for reason in reasons if reason is not None), None)

    def removes_more_than(self, other: Chain) -> bool:
        """Return whether it has all steps of another chain in the same format, none of them weaker, and is not the same
        one."""
        amounts = {step.name: step.amount for step in self.steps}
        covered = all(step.amount <= amounts.get(step.name, -1) for step in other.steps)
        return covered and self.format == other.format and self != other
