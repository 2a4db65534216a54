"""The teacher of a run: a finished classifier that reads the rows through its own tokenizer or processor, once.

What it answers is kept on the disk and found again by every later run that asks the same teacher of the same rows.

Legend: N rows, C classes of the data, in their order, D width.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset

from hf_finetune import digests, environment, store
from hf_finetune.apply import TOKENS, Classifier, load_trained
from hf_finetune.data.image import decode
from hf_finetune.data.inputs import ImageInputs, Inputs, Rows, TextInputs, columns_of
from hf_finetune.data.pixels import check_changeable
from hf_finetune.data.splits import row_digests
from hf_finetune.errors import InputError
from hf_finetune.evaluation.inference import evaluating, predict_logits, to_device
from hf_finetune.evaluation.intervals import bootstrap, paired_difference, verdict
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.models.inner_states import Embedder
from hf_finetune.models.pooled import PooledClassifier
from hf_finetune.models.pooling import PoolingKind, width_of

logger = logging.getLogger("hf_finetune.run")

# Raised whenever the same rows come to be answered otherwise.
FORMAT = 1
FILE = "logits.npy"
# Of a config, what changes from one place and library to another and no answer with it.
WITHOUT_EFFECT = ("_name_or_path", "transformers_version", "architectures")
SHOWN = ("accuracy", "macro_f1", "log_loss")


@dataclass(frozen=True)
class Teacher:
    """A classifier of the data's classes."""

    name: str
    """Folder or Hub id, as the user wrote it."""
    classifier: Classifier
    columns_C: tuple[int, ...]
    """Which of its logits is that of each of the data's classes."""

    @cached_property
    def weights(self) -> str:
        """SHA-256 of its weights, and of what else its answers to the same inputs depend on."""
        model = self.classifier.model
        config = {name: value for name, value in model.config.to_dict().items() if name not in WITHOUT_EFFECT}
        reading = repr(model.reading) if isinstance(model, PooledClassifier) else None
        return digests.of_json([digests.of_tensors(model.state_dict()), config, reading])


@lru_cache(maxsize=1)
def load_teacher(
    checkpoint: str, labels: tuple[str, ...], kind: Literal["text", "image"], *, trust_remote_code: bool
) -> Teacher:
    """A teacher for data of these classes; once per process, until `forget`.

    Args:
        checkpoint: a run's folder, a classifier's, or a Hub id, see `apply.load_trained`.
        labels: names of the data's classes. The teacher's may have another order.
        kind: what the data are.

    Raises:
        InputError: there is no such classifier, it reads the other kind of rows, or it tells other classes apart.
    """
    try:
        classifier = load_trained(checkpoint, trust_remote_code=trust_remote_code)
    except InputError as error:
        raise InputError(f"objective.teacher: {error}") from error
    if classifier.kind != kind:
        raise InputError(
            f"objective.teacher: expected a classifier of {kind}s, got {checkpoint}, which reads {classifier.kind}s"
        )
    places = {name: i for i, name in enumerate(classifier.labels)}
    lacking = [name for name in labels if name not in places]
    strange = [name for name in classifier.labels if name not in set(labels)]
    if lacking or strange:
        found = [f"lacks {_listed(lacking)}"] * bool(lacking) + [f"has {_listed(strange)} besides"] * bool(strange)
        raise InputError(
            f"objective.teacher: expected a classifier of the data's {len(labels)} classes, got {checkpoint}, which "
            f"{' and '.join(found)}; train one on these classes, or name them alike (id2label in its config.json)"
        )
    return Teacher(checkpoint, classifier, tuple(places[name] for name in labels))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


def forget() -> None:
    """Give back the teacher's memory."""
    load_teacher.cache_clear()


class Live:
    """Answers views as they come up, in float32, through the teacher's own tokenizer or processor.

    Views of pictures are those of the student's pixels, which the teacher's processor normalises; see `check_views`.
    """

    def __init__(self, teacher: Teacher) -> None:
        self.teacher, self.seconds = teacher, 0.0

    def __call__(self, views: dict[str, Any]) -> np.ndarray:
        """Logits (B, C) of views, see `data.views.Views.changed`."""
        started = time.perf_counter()
        classifier = self.teacher.classifier
        model, inputs = classifier.model, classifier.inputs
        batch = inputs.collate(inputs.encode_batch(views) if isinstance(inputs, TextInputs) else views)
        with evaluating(model), torch.no_grad():
            logits_BC = model(**to_device(batch, next(model.parameters()).device)).logits
        found = logits_BC.float().cpu().numpy()[:, list(self.teacher.columns_C)]
        self.seconds += time.perf_counter() - started
        return found


def check_views(teacher: Teacher, inputs: Inputs, row: dict[str, Any]) -> None:
    """Refuse a teacher that reads pictures at another size than the student: a view has one size.

    Args:
        inputs: the student's.
        row: one of the data.

    Raises:
        InputError: naming both sizes; or its processor cannot be handed pixels.
    """
    own = teacher.classifier.inputs
    if not (isinstance(own, ImageInputs) and isinstance(inputs, ImageInputs)):
        return
    check_changeable(own.processor, decode(row["image"]), "data.augment beside this teacher")
    sides = [tuple(i.pixels([row["image"]]).shape[-2:]) for i in (own, inputs)]
    if sides[0] != sides[1]:
        raise InputError(
            f"data.augment: expected none beside {teacher.name}, which reads pictures of {sides[0]}, while the student reads "
            f"{sides[1]}; leave it out, or take a teacher of the same size"
        )


@dataclass(frozen=True)
class Answers:
    """What a teacher says of a run's rows."""

    name: str
    """See `Teacher`."""
    weights: str
    """See `Teacher`."""
    logits: dict[str, np.ndarray]
    """By split, shape (N, C), float32; without train where `live` answers its views."""
    reused: bool
    """Whether all of them were found where an earlier run left them."""
    live: Live | None = None
    """What answers the views of training rows that change in every epoch."""

    @property
    def of_training(self) -> np.ndarray | Live:
        """What a `DistillationTrainer` asks."""
        return self.logits["train"] if self.live is None else self.live


def ask(teacher: Teacher, splits: Mapping[str, Dataset], *, budget_gb: float, live: bool = False) -> Answers:
    """The teacher's answers to all rows, in float32: where an earlier run left them, else computed and kept.

    Args:
        splits: canonical rows by the split's name.
        live: the training rows are asked about as they come up, in other views each time.
        budget_gb: gigabytes (10^9 bytes) that all stores may take on the disk.
    """
    if teacher.classifier.pairs and "text_pair" not in splits["validation"].column_names:
        logger.warning("%s: the teacher was trained on pairs of texts, and these are single texts", teacher.name)
    wanted = {name: rows for name, rows in splits.items() if not (live and name == "train")}
    found = {name: _logits(teacher, rows, name, budget_gb) for name, rows in wanted.items()}
    return Answers(
        teacher.name,
        teacher.weights,
        {name: logits_NC[:, list(teacher.columns_C)] for name, (logits_NC, _) in found.items()},
        all(reused for _, reused in found.values()),
        Live(teacher) if live else None,
    )


def embeddings(teacher: Teacher, rows: Dataset, split: str, pooling: PoolingKind, *, budget_gb: float) -> np.ndarray:
    """The teacher's embeddings of all rows, shape (N, D), float32: found or computed and kept, as its answers are.

    Args:
        split: what the rows are called.
        budget_gb: see `ask`.
    """
    return _logits(teacher, rows, split, budget_gb, pooling)[0]


def _logits(
    teacher: Teacher, rows: Dataset, split: str, budget_gb: float, pooling: PoolingKind | None = None
) -> tuple[np.ndarray, bool]:
    """Logits of the teacher's own classes, in its own order, and whether they were found; with `pooling`, embeddings."""
    classifier = teacher.classifier
    inputs, model = classifier.inputs, classifier.model
    shape = (len(rows), len(classifier.labels) if pooling is None else width_of(model.config))
    encoded = inputs.encode_in_memory(rows) if isinstance(inputs, TextInputs) else inputs.encode(rows)
    if isinstance(inputs, TextInputs):
        seen = digests.of_columns(encoded)
    else:
        pictures = b"".join(row_digests(rows.with_format("arrow")[:]))
        seen = digests.of_json([inputs.processor.to_json_string(), pictures.hex()])
    folder = store.folder_of(
        "teacher",
        {
            "format": FORMAT,
            "weights": teacher.weights,
            "rows": seen,
            "attention": classifier.model.config._attn_implementation,
            "float32": torch.get_float32_matmul_precision(),
            "device": next(classifier.model.parameters()).device.type,
            "versions": {name: environment.versions()[name] for name in ("torch", "transformers")},
            **({} if pooling is None else {"embeddings": pooling}),
        },
    )

    def read(folder: Path, _: dict[str, Any]) -> np.ndarray:
        logits_NC = np.load(folder / FILE, allow_pickle=False)
        if logits_NC.shape != shape:
            raise ValueError(f"{FILE} has the shape {logits_NC.shape}, not {shape}")
        return logits_NC

    if (kept := store.find(folder, read)) is not None:
        logger.info("the teacher's answers to %d %s rows: found in %s", len(rows), split, folder)
        store.hold(folder)
        return kept, True
    logits_NC = predict_logits(
        model if pooling is None else Embedder(model, pooling),
        Rows(encoded, columns_of(inputs, labels=False)),
        inputs.collate,
        batch_size=None,
        tokens=TOKENS,
        lengths=inputs.lengths(encoded),
        progress=f"the teacher answers {split}",
    )
    content = io.BytesIO()
    np.save(content, logits_NC)
    try:
        about = {"rows": len(rows), "numbers": shape[1]}
        with store.building(folder, needed=content.tell(), budget_gb=budget_gb, about=about) as build:
            build.append(FILE, content.getbuffer())
        store.hold(folder)
    except store.NoStore as reason:
        logger.warning("the teacher's answers are not kept for a later run: %s", reason)
    return logits_NC, False


def doubts(answers: Answers, splits: Mapping[str, Dataset]) -> list[str]:
    """What speaks against a teacher before anybody learns from it.

    Args:
        splits: the rows that it has answered, with `label`; train and validation among them.
    """
    train_labels, labels_N = (np.asarray(splits[name]["label"][:]) for name in ("train", "validation"))
    accuracy = float((answers.logits["validation"].argmax(-1) == labels_N).mean())
    majority = float((labels_N == np.bincount(train_labels).argmax()).mean())
    if accuracy > majority:
        return []
    return [
        f"the teacher's accuracy on the validation rows, {accuracy:.3f}, is not above that of the most frequent class, "
        f"{majority:.3f}: it was made for other data, or its classes mean something else"
    ]


def report(
    answers: Answers, splits: Mapping[str, Dataset], probabilities: Mapping[str, np.ndarray], *, resamples: int
) -> dict[str, Any]:
    """What result.json says of the teacher: its metrics, the student's accuracy minus its own, and doubts.

    Args:
        splits: the rows, by split: train, and those that were evaluated. The last one is judged by.
        probabilities: the student's of the evaluated splits, shape (N, C).
        resamples: of the intervals.
    """
    metrics, right = {}, {}
    for split in probabilities:
        labels_N = np.asarray(splits[split]["label"][:])
        found = bootstrap(labels_N, softmax(answers.logits[split]), resamples=resamples)
        metrics[split] = {name: found[name].to_dict() for name in SHOWN}
        right[split] = [logits_NC.argmax(-1) == labels_N for logits_NC in (probabilities[split], answers.logits[split])]
    judged = list(splits)[-1]
    difference = paired_difference(*right[judged])
    own, teachers = (float(rows.mean()) for rows in right["validation"])
    notes = doubts(answers, splits)
    if teachers < own:
        notes.append(
            f"the teacher is less accurate on the validation rows, {teachers:.3f}, than its student, {own:.3f}: "
            "compare with the student trained without it"
        )
        logger.warning(notes[-1])
    return {
        "weights": answers.weights,
        "logits_reused": answers.reused,
        "live": answers.live is not None,
        "metrics": metrics,
        "difference": {**difference.to_dict(), "verdict": verdict(difference)},
        "retention": _ratio(*(float(rows.mean()) for rows in right[judged])),
        "agreement": float((probabilities[judged].argmax(-1) == answers.logits[judged].argmax(-1)).mean()),
        "notes": notes,
    }


def _ratio(own: float, teachers: float) -> float | None:
    """Share of the teacher's accuracy that the student has; None of a teacher that has none."""
    return own / teachers if teachers else None
