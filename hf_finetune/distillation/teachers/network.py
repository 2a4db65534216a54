"""A teacher that is a network: a finished classifier, which reads rows through its own tokenizer or image processor.

Legend: N rows, n rows of a chunk, C classes of the data, in their order, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
from datasets import Dataset
from torch.utils.data import Subset
from transformers import PreTrainedModel

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.duplicates import row_digests
from hf_finetune.data.image_processing import check_augmentable, probe_indices
from hf_finetune.data.inputs import EpochRows, ImageInputs, Inputs, Rows, TextInputs, columns_of
from hf_finetune.data.loading import Splits
from hf_finetune.distillation.cache.logits import CachedLogits, Logits, cached_logits, check_finite
from hf_finetune.distillation.features.recorder import EmbeddingModel
from hf_finetune.distillation.losses.base import Pooling
from hf_finetune.distillation.teachers.base import order_notes
from hf_finetune.errors import InputError
from hf_finetune.evaluation.half_precision import HalfPrecision
from hf_finetune.evaluation.logits import PART_ROWS, TOKENS, predict_logits
from hf_finetune.models.families import width_of
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.training.classifier import Classifier
from hf_finetune.training.precision import exact_float32
from hf_finetune.utils import environment, hashing

logger = logging.getLogger("hf_finetune.run")

# Of a config, what changes from one place and library to another, and no prediction with it.
WITHOUT_EFFECT = ("_name_or_path", "transformers_version", "architectures")
Precision = Literal["float32", "bf16"]


@dataclass(frozen=True)
class EncodedRows:
    """Rows as a network reads them."""

    digest: str
    """SHA-256 of what it reads, or of all that this depends on."""
    rows: EpochRows
    lengths_N: np.ndarray | None
    """Tokens of each; None of images."""

    @classmethod
    def of(cls, rows: Dataset | AugmentedRows, inputs: Inputs) -> EncodedRows:
        """Encode rows, or the epoch's views of them, as these inputs read them."""
        if isinstance(inputs, TextInputs):
            encoded = inputs.encode_in_memory(rows.texts() if isinstance(rows, AugmentedRows) else rows)
            tokens = Rows(encoded, columns_of(inputs, labels=False))
            return cls(hashing.of_columns(encoded), tokens, inputs.lengths(encoded))
        processor = inputs.processor.to_json_string()
        if isinstance(rows, AugmentedRows):
            return cls(hashing.of_json([processor, rows.identity]), rows, None)
        digest = hashing.of_json([processor, b"".join(row_digests(rows.with_format("arrow")[:])).hex()])
        return cls(digest, Rows(inputs.encode(rows), columns_of(inputs, labels=False)), None)


@dataclass(frozen=True)
class NetworkTeacher:
    """A classifier of the data's classes."""

    name: str
    """Folder or Hub id, as the user wrote it."""
    classifier: Classifier
    columns_C: tuple[int, ...]
    """Which of its logits is that of each of the data's classes."""
    precision: Precision = "float32"
    """In which it predicts; bf16: the predicted class is float32's, see `evaluation.half_precision`."""
    all_logits: bool = False
    """Whether all of many logits are cached, see `distillation.cache.logits`."""

    @property
    def model(self) -> PreTrainedModel:
        """The network; or a PEFT model, which has what its network has."""
        return cast(PreTrainedModel, self.classifier.model)

    @property
    def notes(self) -> tuple[str, ...]:
        """What its user should know."""
        return order_notes(self.name, self.columns_C)

    @cached_property
    def weights(self) -> str:
        """SHA-256 of its weights, and of what else its predictions of the same inputs depend on."""
        model, head = self.model, None
        config = {name: value for name, value in model.config.to_dict().items() if name not in WITHOUT_EFFECT}
        if isinstance(model, CustomHeadClassifier):
            spec = model.spec
            # As runs have recorded it from the beginning.
            head = f"Reading(pooling={spec.kind!r}, last_layers={spec.last_layers}, first={spec.first})"
        return hashing.of_json([hashing.of_tensors(model.state_dict()), config, head])

    def check(self, splits: Splits, student: Inputs, augment: Sequence[object], *, online: bool) -> None:
        """Refuse rows that it cannot predict, see `Teacher.check`.

        Raises:
            InputError: its processor cannot read the images; or not the student's pixels, as the views of an epoch are.
        """
        inputs, rows = self.classifier.inputs, splits.train
        if not isinstance(inputs, ImageInputs):
            return
        images = rows.select(probe_indices(len(rows)))["image"][:]
        try:
            inputs.collate({"image": images})
        except InputError as error:
            raise InputError(f"objective.teacher: {self.name}: {error}") from None
        if online and isinstance(student, ImageInputs):
            check_augmentable(inputs.processor, images, "data.augment beside this teacher")
            own, other = (tuple(each.pixels(images).shape[-2:]) for each in (inputs, student))
            if own != other:
                raise InputError(
                    f"data.augment: expected none beside {self.name}, which reads images of {own}, while the student "
                    f"reads {other}; leave it out, or take a teacher of the same size"
                )

    def predict(self, rows: Dataset | AugmentedRows, split: str, *, budget_gb: float) -> tuple[Logits, bool]:
        """Return the logits of all rows, and whether they were cached, see `Teacher.predict`."""
        logits, cached = self._outputs(rows, split, budget_gb)
        return replace(logits, columns_C=self.columns_C), cached

    def embeddings(self, rows: Dataset | AugmentedRows, split: str, pooling: Pooling, *, budget_gb: float) -> Logits:
        """Return the embeddings of all rows (N, D), float32, cached as its logits are.

        Args:
            rows, split, budget_gb: see `Teacher.predict`.
        """
        return self._outputs(rows, split, budget_gb, pooling)[0]

    def cache_key(self, encoded: EncodedRows, precision: Precision = "float32") -> dict[str, Any]:
        """What its logits and hidden states of rows depend on, as JSON has it."""
        return {
            "weights": self.weights,
            "rows": encoded.digest,
            "attention": self.model.config._attn_implementation,
            "device": next(self.model.parameters()).device.type,
            "precision": precision,
            "versions": {name: environment.versions()[name] for name in ("torch", "transformers")},
        }

    def warn_of_pairs(self, rows: Dataset) -> None:
        """Warn of single texts for a teacher of pairs, and of pairs for one that may not be."""
        pairs = "text_pair" in rows.column_names
        if self.classifier.kind == "image" or self.classifier.pairs == pairs:
            return
        if pairs:
            message = "%s: these are pairs of texts, and nothing says that the teacher was trained on such"
        else:
            message = "%s: the teacher was trained on pairs of texts, and these are single texts"
        logger.warning(message, self.name)

    def _outputs(
        self, rows: Dataset | AugmentedRows, split: str, budget_gb: float, pooling: Pooling | None = None
    ) -> tuple[CachedLogits, bool]:
        """Return the logits of the teacher's own classes, and whether they were cached; with `pooling`, embeddings."""
        classifier = self.classifier
        inputs, encoded = classifier.inputs, EncodedRows.of(rows, classifier.inputs)
        model = self.model if pooling is None else EmbeddingModel(self.model, pooling)
        options: dict[str, Any] = {"batch_size": None, "tokens": TOKENS}
        key, width = self.cache_key(encoded, self.precision), len(classifier.labels)
        if pooling is not None:
            key, width = self.cache_key(encoded) | {"embeddings": pooling}, width_of(self.model.config)

        # Also in the midst of a training whose own products are less exact.
        @exact_float32()
        def compute(numbers: np.ndarray) -> np.ndarray:
            some = Subset(encoded.rows, numbers.tolist())
            lengths = None if encoded.lengths_N is None else encoded.lengths_N[numbers]
            if key["precision"] == "bf16":
                # Anew for each chunk: what is computed again must not depend on those before, which a killed run had.
                outputs_nC = HalfPrecision(model, inputs.collate, rescore=True, **options).logits(some, lengths)
            else:
                progress = f"the teacher predicts {split}"
                outputs_nC = predict_logits(model, some, inputs.collate, lengths=lengths, progress=progress, **options)
            return check_finite(outputs_nC, numbers, self.name, split)

        return cached_logits(
            key,
            len(rows),
            compute,
            classes=width,
            size=PART_ROWS[classifier.kind],
            name=split,
            budget_gb=budget_gb,
            whole=self.all_logits or pooling is not None,
        )
