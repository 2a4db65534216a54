"""A teacher that is a network: a finished classifier, which reads rows through its own tokenizer or image processor.

Legend: N rows, n rows of a chunk, C classes of the data, in their order, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import Subset
from transformers import PreTrainedConfig

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.duplicates import row_digests
from hf_finetune.data.image_processing import check_augmentable, probe_indices
from hf_finetune.data.inputs import EpochRows, ImageInputs, Inputs, Rows, TextInputs, columns_of
from hf_finetune.distillation.class_order import class_columns, order_notes
from hf_finetune.distillation.features import EmbeddingModel
from hf_finetune.distillation.logit_cache import CachedLogits, Logits, cached_logits, check_finite
from hf_finetune.errors import InputError
from hf_finetune.evaluation.half_precision import HalfPrecision
from hf_finetune.evaluation.logits import PART_ROWS, TOKENS, predict_logits
from hf_finetune.models.families import PoolingKind, width_of
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.training.classifier import Classifier, load_trained
from hf_finetune.training.precision import default_device, exact_float32, has_native_bf16
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
    """Whether all of many logits are cached, see `distillation.logit_cache`."""

    @property
    def config(self) -> PreTrainedConfig:
        """The network's."""
        return self.classifier.model.config

    @property
    def notes(self) -> tuple[str, ...]:
        """What its user should know."""
        return order_notes(self.name, self.columns_C)

    @cached_property
    def weights(self) -> str:
        """SHA-256 of its weights, and of what else its predictions of the same inputs depend on."""
        model = self.classifier.model
        config = {name: value for name, value in self.config.to_dict().items() if name not in WITHOUT_EFFECT}
        reading = repr(model.spec) if isinstance(model, CustomHeadClassifier) else None
        return hashing.of_json([hashing.of_tensors(model.state_dict()), config, reading])

    def check(self, splits: Mapping[str, Dataset], student: Inputs, augment: Sequence[object], *, online: bool) -> None:
        """Refuse rows that it cannot predict, see `Teacher.check`.

        Raises:
            InputError: its processor cannot read the images; or not the student's pixels, as the views of an epoch are.
        """
        inputs, rows = self.classifier.inputs, splits["train"]
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
                    f"data.augment: expected none beside {self.name}, which reads images of {own}, while the student reads "
                    f"{other}; leave it out, or take a teacher of the same size"
                )

    def predict(self, rows: Dataset | AugmentedRows, split: str, *, budget_gb: float) -> tuple[Logits, bool]:
        """Return the logits of all rows, and whether they were cached, see `Teacher.predict`."""
        model, inputs = self.classifier.model, self.classifier.inputs

        def compute(some: torch.utils.data.Dataset, lengths: np.ndarray | None) -> np.ndarray:
            if self.precision == "bf16":
                # Anew for each chunk: what it computes again must not depend on those before, which a killed run had.
                half = HalfPrecision(model, inputs.collate, batch_size=None, tokens=TOKENS, rescore=True)
                return half.logits(some, lengths)
            return self._compute(model, some, lengths, split)

        encoded = EncodedRows.of(rows, inputs)
        logits, cached = self._cached(
            encoded,
            self.cache_key(encoded, self.precision),
            compute,
            width=len(self.classifier.labels),
            whole=self.all_logits,
            split=split,
            budget_gb=budget_gb,
        )
        return replace(logits, columns_C=self.columns_C), cached

    def embeddings(
        self, rows: Dataset | AugmentedRows, split: str, pooling: PoolingKind, *, budget_gb: float
    ) -> CachedLogits:
        """Return the embeddings of all rows (N, D), float32, cached as its logits are.

        Args:
            rows, split, budget_gb: see `Teacher.predict`.
        """
        model = EmbeddingModel(self.classifier.model, pooling)
        encoded = EncodedRows.of(rows, self.classifier.inputs)
        embeddings, _ = self._cached(
            encoded,
            self.cache_key(encoded, "float32") | {"embeddings": pooling},
            lambda some, lengths: self._compute(model, some, lengths, split),
            width=width_of(self.config),
            whole=True,
            split=split,
            budget_gb=budget_gb,
        )
        return embeddings

    def warn_of_pairs(self, rows: Dataset) -> None:
        """Warn of single texts for a teacher of pairs, and of pairs for one that may not be."""
        if self.classifier.kind != "text" or self.classifier.pairs == (pairs := "text_pair" in rows.column_names):
            return
        if pairs:
            message = "%s: these are pairs of texts, and nothing says that the teacher was trained on such"
        else:
            message = "%s: the teacher was trained on pairs of texts, and these are single texts"
        logger.warning(message, self.name)

    def cache_key(self, encoded: EncodedRows, precision: Precision) -> dict[str, Any]:
        """What its logits and hidden states of rows depend on, as JSON has it."""
        return {
            "weights": self.weights,
            "rows": encoded.digest,
            "attention": self.config._attn_implementation,
            "device": next(self.classifier.model.parameters()).device.type,
            "precision": precision,
            "versions": {name: environment.versions()[name] for name in ("torch", "transformers")},
        }

    def _compute(
        self, model: nn.Module, some: torch.utils.data.Dataset, lengths: np.ndarray | None, split: str
    ) -> np.ndarray:
        return predict_logits(
            model,
            some,
            self.classifier.inputs.collate,
            batch_size=None,
            tokens=TOKENS,
            lengths=lengths,
            progress=f"the teacher predicts {split}",
        )

    def _cached(
        self,
        encoded: EncodedRows,
        key: dict[str, Any],
        compute: Callable[[torch.utils.data.Dataset, np.ndarray | None], np.ndarray],
        *,
        width: int,
        whole: bool,
        split: str,
        budget_gb: float,
    ) -> tuple[CachedLogits, bool]:
        # Also in the midst of a training whose own products are less exact.
        @exact_float32()
        def compute_chunk(numbers: np.ndarray) -> np.ndarray:
            lengths = None if encoded.lengths_N is None else encoded.lengths_N[numbers]
            outputs_nC = compute(Subset(encoded.rows, numbers.tolist()), lengths)
            return check_finite(outputs_nC, numbers, self.name, split)

        return cached_logits(
            key,
            len(encoded.rows),
            compute_chunk,
            classes=width,
            size=PART_ROWS[self.classifier.kind],
            name=split,
            budget_gb=budget_gb,
            whole=whole,
        )


def load_network(
    checkpoint: str,
    labels: Sequence[str],
    kind: Literal["text", "image"],
    *,
    trust_remote_code: bool,
    precision: Precision,
    all_logits: bool,
) -> NetworkTeacher:
    """Load a run's folder, a classifier's, or a Hub id, see `training.classifier.load_trained`.

    Args:
        labels: names of the data's classes. The teacher's may have another order.
        kind: what the data are.
        precision, all_logits: see `NetworkTeacher`.

    Raises:
        InputError: there is no such classifier, it reads the other kind of rows, or it tells other classes apart; bf16 on a
            device without it.
    """
    if precision == "bf16" and not has_native_bf16(default_device()):
        raise InputError(
            f"objective.teacher_precision: expected float32 on this {default_device().type}, which does not multiply bf16 "
            "natively, got 'bf16'"
        )
    try:
        classifier = load_trained(checkpoint, trust_remote_code=trust_remote_code)
    except InputError as error:
        raise InputError(f"objective.teacher: {error}") from error
    if classifier.kind != kind:
        raise InputError(
            f"objective.teacher: expected a classifier of {kind}s, got {checkpoint}, which reads {classifier.kind}s"
        )
    columns_C = class_columns(labels, classifier.labels, owner=checkpoint)
    return NetworkTeacher(checkpoint, classifier, columns_C, precision, all_logits)
