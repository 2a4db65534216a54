"""Rank checkpoints by probes: heads on their frozen features, cross-validated, with LogME beside.

A checkpoint is better than a smaller one only by a paired test on the same rows, corrected for the number of
comparisons; else the smaller one stays. Validation and test rows are not read.

Legend: N rows, C outputs, D features.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from datasets import Dataset

from hf_finetune.config.data import ImageData, TextData
from hf_finetune.data.duplicates import dataset_digests, first_occurrences
from hf_finetune.data.labels import labels_of
from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.errors import InputError
from hf_finetune.evaluation.folds import fold_numbers
from hf_finetune.evaluation.paired import corrected, verdict
from hf_finetune.evaluation.report import candidates_table
from hf_finetune.features.encoder_states import encoder_features, load_encoder
from hf_finetune.models.checkpoint import inspect_checkpoint
from hf_finetune.pipeline.frozen_features import held_out_scores
from hf_finetune.pipeline.load_data import load_splits
from hf_finetune.search.checkpoints.log_evidence import log_evidence
from hf_finetune.tasks.base import Task
from hf_finetune.tasks.choose import task_of
from hf_finetune.utils.files import read_json, write_json
from hf_finetune.utils.messages import counted

logger = logging.getLogger("hf_finetune.run")
FILE = "candidates.json"
FOLDS = 5
LEAST_ROWS, MOST_ROWS, PART = 500, 2_000, 0.2
"""Rows of the probes: this share of the training rows, between these numbers. A row costs one forward pass of each
checkpoint; training on it three times as much in each epoch."""
TIMED_ROWS = 32


@dataclass(frozen=True)
class Ranking:
    """Checkpoints by the probe on their features, the best first. It prints as a table."""

    document: Mapping[str, Any]
    """`metric`, `rows`, `reason`, and `checkpoints`: for each its name (`checkpoint`), whether it is `chosen`,
    `parameters` of the encoder, the `pooling` of the better probe, the metric with its interval, `log_evidence` (LogME)
    and `seconds`."""

    @property
    def chosen(self) -> str:
        """The best checkpoint: larger ones are not better by the paired test."""
        return next(str(each["checkpoint"]) for each in self.document["checkpoints"] if each["chosen"])

    def to_dict(self) -> dict[str, Any]:
        """Return the content, for JSON."""
        return dict(self.document)

    def write(self, folder: Path) -> None:
        """Write candidates.json."""
        write_json(folder / FILE, self.to_dict())

    @classmethod
    def read(cls, folder: Path) -> Ranking | None:
        """Read candidates.json. None: there is none.

        Raises:
            InputError: it is damaged.
        """
        path, remedy = folder / FILE, "start anew in another --output"
        if not path.exists():
            return None
        ranking = cls(read_json(path, remedy))
        try:
            str(ranking), ranking.chosen
        except (LookupError, TypeError, ValueError, StopIteration):
            raise InputError(f"{path}: damaged; {remedy}") from None
        return ranking

    def __str__(self) -> str:
        return candidates_table(self.document)

    __repr__ = __str__


@dataclass(frozen=True)
class _Probe:
    """A checkpoint and the probe on its features."""

    checkpoint: str
    parameters: int
    pooling: str
    value: float
    scores_NC: np.ndarray
    """Out of fold."""
    log_evidence: float
    seconds: float

    @property
    def name(self) -> str:
        """The last part of its name."""
        return PurePath(self.checkpoint).name


def check_candidates(candidates: Sequence[str]) -> None:
    """Refuse checkpoints that cannot be ranked, before anything is read.

    Raises:
        InputError: there are fewer than two different ones, or one cannot be found, see `inspect_checkpoint`.
    """
    if len(set(candidates)) < 2 or len(set(candidates)) < len(candidates):
        raise InputError(f"search.candidates: expected two different checkpoints or more, got {', '.join(candidates)}")
    for checkpoint in candidates:
        inspect_checkpoint(checkpoint)


def rank(
    candidates: Sequence[str],
    data: TextData | ImageData,
    *,
    cache_gb: float = 0.0,
    limit_s: float = math.inf,
    group: str | None = None,
) -> Ranking:
    """Rank checkpoints on training rows of the data.

    Args:
        candidates: Hub ids or folders.
        cache_gb: budget of the disk cache of features.
        limit_s: seconds that the features may take together; fewer rows are read where they would take longer.
        group: see `data.loading.load`.

    Raises:
        InputError: see `check_candidates` and `load_splits`; or rows are words with tags, or differ too little.
    """
    check_candidates(candidates)
    splits = load_splits(data, group=group)
    task, labeled = task_of(splits), labeled_rows(splits.train)
    if task.has_words:
        raise InputError("search.candidates: expected none with words that have tags; name one checkpoint by --model")
    order = np.random.default_rng(0).permutation(len(labeled))
    most = min(MOST_ROWS, max(LEAST_ROWS, int(PART * len(labeled))))
    if not math.isinf(limit_s):
        timed = labeled.select(np.sort(order[:TIMED_ROWS]))
        row_s = sum(_row_s(checkpoint, data, timed) for checkpoint in candidates)
        most = min(most, max(LEAST_ROWS // 5, int(limit_s / row_s)))
    rows = labeled.select(np.sort(task.with_every_output(order[:most], labels_of(labeled))))
    task.check_judged(labels_of(rows), "train")
    probes = [_probe(checkpoint, data, rows, task, cache_gb=cache_gb) for checkpoint in candidates]
    load_encoder.cache_clear()
    return Ranking(_ranked(probes, task, labels_of(rows)))


def _row_s(checkpoint: str, data: TextData | ImageData, rows: Dataset) -> float:
    source = load_encoder(checkpoint, data.kind, _length(data))
    started = time.perf_counter()
    encoder_features(source, rows, [(-1, "mean")])
    return (time.perf_counter() - started) / len(rows)


def _length(data: TextData | ImageData) -> int:
    return data.max_length if data.kind == "text" else 4


def _probe(checkpoint: str, data: TextData | ImageData, rows: Dataset, task: Task, *, cache_gb: float) -> _Probe:
    """Return the better of the probes on the mean and on the first token of the top layer."""
    started = time.perf_counter()
    source = load_encoder(checkpoint, data.kind, _length(data))
    requested = [(-1, pooling) for pooling in source.poolings if pooling != "max"]
    features = encoder_features(source, rows, requested, cache_gb=cache_gb)
    labels = labels_of(rows)
    fold_N = _folds(rows, labels, task)
    scores = {pooling: held_out_scores(task, each_ND, labels, fold_N) for (_, pooling), each_ND in features.items()}
    values = {pooling: task.values(labels, each_NC)[task.judged_by] for pooling, each_NC in scores.items()}
    best = max(values, key=lambda pooling: values[pooling])
    targets_NC = np.eye(len(task.labels))[labels] if labels.ndim == 1 else labels
    evidence = log_evidence(next(each for (_, pooling), each in features.items() if pooling == best), targets_NC)
    parameters = sum(each.numel() for each in source.model.parameters())
    return _Probe(checkpoint, parameters, best, values[best], scores[best], evidence, time.perf_counter() - started)


def _folds(rows: Dataset, labels: Any, task: Task) -> np.ndarray:
    """Return the fold of each row; repeats of a row share one.

    Raises:
        InputError: there are too few different rows.
    """
    groups_N = first_occurrences(dataset_digests(rows))
    classes_N = labels if task.has_classes else None
    most = len(np.unique(groups_N)) if classes_N is None else int(np.bincount(classes_N).max())
    if min(most, len(np.unique(groups_N))) < 2:
        raise InputError(
            f"search.candidates: {counted(len(rows), 'training row')} cannot be divided into folds; name one by --model"
        )
    return fold_numbers(groups_N, classes_N, count=min(FOLDS, most, len(np.unique(groups_N))), seed=0)


def _ranked(probes: Sequence[_Probe], task: Task, labels: Any) -> dict[str, Any]:
    by_size = sorted(probes, key=lambda probe: probe.parameters)
    chosen, reason = by_size[0], "it is the smallest, and no other one is better by a paired test"
    for probe in by_size[1:]:
        difference = corrected(task.difference(labels, probe.scores_NC, chosen.scores_NC), len(probes) - 1)
        if verdict(difference, margin=task.margin()) == "better":
            gain = f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
            chosen, reason = probe, f"{task.judged_by} {gain} against {chosen.name}"
    return {
        "metric": task.judged_by,
        "rows": len(labels),
        "reason": f"{chosen.name}: {reason}",
        "checkpoints": [
            {
                "checkpoint": probe.checkpoint,
                "chosen": probe is chosen,
                "parameters": probe.parameters,
                "pooling": probe.pooling,
                task.judged_by: task.intervals(labels, probe.scores_NC, resamples=1_000)[task.judged_by].to_dict(),
                "log_evidence": round(probe.log_evidence, 4),
                "seconds": round(probe.seconds, 2),
            }
            for probe in sorted(probes, key=lambda probe: probe.value, reverse=True)
        ],
    }
