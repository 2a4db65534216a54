"""What the steps have in common that change the network by what calibration rows say of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from transformers import PreTrainedModel

from hf_finetune.compression.calibration import Batch, calibration_batches
from hf_finetune.compression.steps import Step, StepRows
from hf_finetune.tasks.trained_model import TrainedModel


class CalibratedStep(Step):
    """A step that changes the network alone, by calibration rows."""

    def apply(self, classifier: TrainedModel, rows: StepRows) -> TrainedModel:
        """Return the classifier with the pruned network."""
        batches = calibration_batches(classifier, rows.calibration)
        return replace(classifier, model=self.pruned(cast(PreTrainedModel, classifier.model), batches))

    @abstractmethod
    def pruned(self, model: PreTrainedModel, batches: Sequence[Batch]) -> PreTrainedModel:
        """Return the pruned network; the model itself stays as it is.

        Args:
            batches: inputs of calibration rows.

        Raises:
            InputError: see `Step.apply`.
        """
