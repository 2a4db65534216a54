"""A teacher that is a network: a trained classifier with its own tokenizer or image processor.

Legend: N rows, n rows of a chunk, C classes of the data, in their order, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
from datasets import Dataset
from torch import nn
from torch.utils.data import Subset
from transformers import PreTrainedModel

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.duplicates import dataset_digests
from hf_finetune.data.image_processing import check_augmentable, probe_indices
from hf_finetune.data.inputs import EpochRows, ImageInputs, Inputs, Rows, TextInputs, columns_of
from hf_finetune.data.loading import Splits
from hf_finetune.data.ragged import places_of
from hf_finetune.data.word_inputs import word_counts
from hf_finetune.distillation.cache.logits import LogitCache, Logits
from hf_finetune.distillation.feature_matching.recorder import EmbeddingModel
from hf_finetune.distillation.losses.base import Pooling
from hf_finetune.errors import InputError
from hf_finetune.evaluation.half_precision import HalfPrecision
from hf_finetune.evaluation.logits import PART_ROWS, TOKENS, predict_logits
from hf_finetune.models.families import width_of
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.training.precision import exact_float32
from hf_finetune.utils import environment, hashing

logger = logging.getLogger("hf_finetune.run")

# Fields of a config that differ between places and library versions without changing a prediction.
IRRELEVANT_FIELDS = ("_name_or_path", "transformers_version", "architectures")
Precision = Literal["float32", "bf16"]


@dataclass(frozen=True)
class EncodedRows:
    """Rows encoded for a network."""

    digest: str
    """SHA-256 of the encoded rows, or of everything that they depend on."""
    rows: EpochRows
    lengths_N: np.ndarray | None
    """Number of tokens of each row; None for images."""
    counts_N: np.ndarray | None = None
    """Number of words that each row scores; None: the row itself."""

    @property
    def outputs(self) -> int:
        """Number of logits: of rows, or of their words."""
        return len(self.rows) if self.counts_N is None else int(self.counts_N.sum())

    @classmethod
    def of(cls, rows: Dataset | AugmentedRows, inputs: Inputs) -> EncodedRows:
        """Encode rows, or the views of an epoch."""
        if isinstance(inputs, TextInputs):
            encoded = inputs.encode_in_memory(rows.texts() if isinstance(rows, AugmentedRows) else rows)
            tokens = Rows(encoded, columns_of(inputs, labels=False))
            return cls(hashing.of_columns(encoded), tokens, inputs.lengths(encoded), word_counts(encoded))
        processor = inputs.processor.to_json_string()
        if isinstance(rows, AugmentedRows):
            return cls(hashing.of_json([processor, rows.identity]), rows, None)
        digest = hashing.of_json([processor, b"".join(dataset_digests(rows)).hex()])
        return cls(digest, Rows(inputs.encode(rows), columns_of(inputs, labels=False)), None)


@dataclass(frozen=True)
class NetworkTeacher:
    """A trained classifier of the data's classes."""

    name: str
    """Folder or Hub id, as the user wrote it."""
    classifier: TrainedModel
    columns_C: tuple[int, ...]
    """Index of the logit of each of the data's classes."""
    precision: Precision = "float32"
    """Number format of the predictions; bf16 keeps the predicted classes, see `evaluation.half_precision`."""
    all_logits: bool = False
    """Whether all logits are cached also with many classes, see `distillation.cache.logits`."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""

    @property
    def model(self) -> PreTrainedModel:
        """The network; or its PEFT model, which has the same attributes."""
        return cast(PreTrainedModel, self.classifier.model)

    @cached_property
    def weights(self) -> str:
        """SHA-256 of its weights, its config, and how its head pools."""
        model, head = self.model, None
        config = {name: value for name, value in model.config.to_dict().items() if name not in IRRELEVANT_FIELDS}
        if isinstance(model, CustomHeadClassifier):
            spec = model.spec
            # The text that runs have recorded from the beginning.
            head = f"Reading(pooling={spec.kind!r}, last_layers={spec.last_layers}, first={spec.first})"
        return hashing.of_json([hashing.of_tensors(model.state_dict()), config, head])

    @cached_property
    def files(self) -> dict[str, str]:
        """SHA-256 of its config, tokenizer or processor, and adapter config, by file name."""
        return hashing.of_each(self.classifier.files)

    def check(self, splits: Splits, student: Inputs, augment: Sequence[object], *, online: bool) -> None:
        """Refuse images that it cannot read, see `Teacher.check`.

        Raises:
            InputError: its processor cannot read the images; or, with online augmentation, the student's pixels.
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
            size, student_size = (tuple(each.pixels(images).shape[-2:]) for each in (inputs, student))
            if size != student_size:
                raise InputError(
                    f"data.augment: expected none beside {self.name}, which reads images of {size}, while the student "
                    f"reads {student_size}; leave it out, or take a teacher of the same size"
                )

    def predict(self, rows: Dataset | AugmentedRows, split: str, *, budget_gb: float) -> tuple[Logits, bool]:
        """Return the logits of all rows, or of all their words, and whether all were cached before.

        See `Teacher.predict`.
        """
        encoded = EncodedRows.of(rows, self.classifier.inputs)
        cache = self._cache(len(self.classifier.labels), self.columns_C, all_logits=self.all_logits)
        key = self.cache_key(encoded, self.precision)
        compute = self._forward(self.model, encoded, split, precision=self.precision)
        return cache.load(key, encoded.outputs, compute, split=split, budget_gb=budget_gb)

    def embeddings(self, rows: Dataset | AugmentedRows, split: str, pooling: Pooling, *, budget_gb: float) -> Logits:
        """Return the embeddings of all rows (N, D), float32, cached like logits.

        Args:
            rows, split, budget_gb: see `Teacher.predict`.
        """
        encoded = EncodedRows.of(rows, self.classifier.inputs)
        width = width_of(self.model.config)
        cache = self._cache(width, tuple(range(width)), all_logits=True)
        key = self.cache_key(encoded) | {"embeddings": pooling}
        compute = self._forward(EmbeddingModel(self.model, pooling), encoded, split)
        return cache.load(key, len(encoded.rows), compute, split=split, budget_gb=budget_gb)[0]

    def cache_key(self, encoded: EncodedRows, precision: Precision = "float32") -> dict[str, Any]:
        """Return what its outputs for rows depend on, as JSON values."""
        return {
            "weights": self.weights,
            "rows": encoded.digest,
            "attention": self.model.config._attn_implementation,
            "device": next(self.model.parameters()).device.type,
            "precision": precision,
            "versions": {name: environment.versions()[name] for name in ("torch", "transformers")},
        }

    def warn_of_pairs(self, rows: Dataset) -> None:
        """Warn of single texts for a teacher of pairs, and of pairs for a teacher that may not be one."""
        pairs = "text_pair" in rows.column_names
        if self.classifier.kind == "text" and self.classifier.pairs != pairs:
            texts = "pairs of texts" if pairs else "single texts"
            logger.warning("%s: the data are %s, on which the teacher may not have been trained", self.name, texts)

    def _cache(self, width: int, columns: tuple[int, ...], *, all_logits: bool) -> LogitCache:
        return LogitCache(self.name, width, PART_ROWS[self.classifier.kind], columns, all_logits)

    def _forward(
        self, model: nn.Module, encoded: EncodedRows, split: str, *, precision: Precision = "float32"
    ) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function that computes the outputs of a model for the rows of some numbers."""
        collate, options = self.classifier.inputs.collate, dict[str, Any](batch_size=None, tokens=TOKENS)

        def compute(numbers: np.ndarray) -> np.ndarray:
            if encoded.counts_N is None:
                return compute_rows(numbers)
            row_W = np.repeat(np.arange(len(encoded.rows)), encoded.counts_N)
            windows = np.unique(row_W[numbers])
            words = places_of(windows, encoded.counts_N)  # in order
            return compute_rows(windows)[np.searchsorted(words, numbers)]

        # In the middle of a training whose own matrix products may be less exact.
        @exact_float32()
        def compute_rows(numbers: np.ndarray) -> np.ndarray:
            chunk = Subset(encoded.rows, numbers.tolist())
            lengths = None if encoded.lengths_N is None else encoded.lengths_N[numbers]
            if precision == "bf16":
                # Built for each chunk: its state must not depend on chunks that a killed run has computed before.
                cuts_C = self.classifier.task.cuts_C
                return HalfPrecision(model, collate, rescore=True, cuts_C=cuts_C, **options).logits(chunk, lengths)
            counts = None if encoded.counts_N is None else encoded.counts_N[numbers]
            progress = f"the teacher predicts {split}"
            return predict_logits(model, chunk, collate, lengths=lengths, counts=counts, progress=progress, **options)

        return compute
