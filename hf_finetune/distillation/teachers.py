"""The teachers of a run: finished classifiers that read the rows through their own tokenizer or processor, once.

What each answers is kept on the disk and found again by every later run that asks the same teacher of the same rows. Of
several, the student is given the mean.

Legend: N rows, C classes of the data, in their order, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch.utils.data import Subset

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.duplicates import row_digests
from hf_finetune.data.image_processing import check_augmentable
from hf_finetune.data.inputs import ImageInputs, Inputs, Rows, TextInputs, columns_of
from hf_finetune.distillation.classes import places_of
from hf_finetune.distillation.ensemble import Mean, mean_logits
from hf_finetune.distillation.features import EmbeddingModel
from hf_finetune.distillation.logit_cache import Kept, Logits, keep
from hf_finetune.distillation.precomputed import Given, is_given, read_given
from hf_finetune.distillation.sklearn_pipelines import Pipeline, is_pipeline, read_pipeline
from hf_finetune.distillation.trainer import Clock
from hf_finetune.errors import InputError
from hf_finetune.evaluation.half_precision import HalfPrecision
from hf_finetune.evaluation.logits import PART_ROWS, TOKENS, predict_logits
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.heads.pooling import PoolingKind, width_of
from hf_finetune.training.classifier import Classifier, load_trained
from hf_finetune.training.precision import default_device, exact_float32, has_native_bf16
from hf_finetune.utils import environment, hashing

logger = logging.getLogger("hf_finetune.run")

# Of a config, what changes from one place and library to another and no answer with it.
WITHOUT_EFFECT = ("_name_or_path", "transformers_version", "architectures")
Precision = Literal["float32", "bf16"]


@dataclass(frozen=True)
class Teacher:
    """A classifier of the data's classes."""

    name: str
    """Folder or Hub id, as the user wrote it."""
    classifier: Classifier
    columns_C: tuple[int, ...]
    """Which of its logits is that of each of the data's classes."""
    precision: Precision = "float32"
    """In which it is asked about rows; bf16: the class that it answers is float32's, see `evaluation.half_precision`."""
    whole: bool = False
    """Whether all its logits are kept, however many, see `distillation.logit_cache`."""

    @cached_property
    def weights(self) -> str:
        """SHA-256 of its weights, and of what else its answers to the same inputs depend on."""
        model = self.classifier.model
        config = {name: value for name, value in model.config.to_dict().items() if name not in WITHOUT_EFFECT}
        reading = repr(model.reading) if isinstance(model, CustomHeadClassifier) else None
        return hashing.of_json([hashing.of_tensors(model.state_dict()), config, reading])


AnyTeacher = Teacher | Given | Pipeline


def load_teacher(
    checkpoint: str,
    labels: tuple[str, ...],
    kind: Literal["text", "image"],
    *,
    trust_remote_code: bool,
    precision: Precision = "float32",
    whole: bool = False,
) -> AnyTeacher:
    """A teacher for data of these classes.

    Args:
        checkpoint: a run's folder, a classifier's, or a Hub id, see `training.classifier.load_trained`; or answers, see `distillation.precomputed`,
            or a pipeline of scikit-learn, see `distillation.sklearn_pipelines`.
        labels: names of the data's classes. The teacher's may have another order.
        kind: what the data are.
        precision: of a classifier, see `Teacher`.
        whole: see `Teacher`.

    Raises:
        InputError: there is no such classifier, it reads the other kind of rows, or it tells other classes apart; bf16 on a device
            without it; or see `distillation.precomputed.read_given` and `distillation.sklearn_pipelines.read_pipeline`.
    """
    if is_given(checkpoint):
        return read_given(checkpoint, labels)
    if is_pipeline(checkpoint):
        if kind != "text":
            raise InputError(
                f"objective.teacher: expected a classifier of {kind}s, got {checkpoint}, which reads texts"
            )
        return replace(read_pipeline(checkpoint, labels), whole=whole)
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
    return Teacher(checkpoint, classifier, places_of(labels, classifier.labels, owner=checkpoint), precision, whole)


@dataclass
class Teachers:
    """A run's teachers: loaded when they are first needed, and again when they are needed after `release`."""

    names: tuple[str, ...]
    """See `load_teacher`; likewise all fields below."""
    labels: tuple[str, ...]
    kind: Literal["text", "image"]
    trust_remote_code: bool = False
    precision: Precision = "float32"
    whole: bool = False
    _members: tuple[AnyTeacher, ...] | None = field(default=None, init=False, repr=False)

    @property
    def members(self) -> tuple[AnyTeacher, ...]:
        """The teachers, in memory.

        Raises:
            InputError: see `load_teacher`.
        """
        if self._members is None:
            self._members = tuple(
                load_teacher(
                    name,
                    self.labels,
                    self.kind,
                    trust_remote_code=self.trust_remote_code,
                    precision=self.precision,
                    whole=self.whole,
                )
                for name in self.names
            )
        return self._members

    def release(self) -> None:
        """Give back the teachers' memory."""
        self._members = None

    @property
    def weights(self) -> str:
        """What the predictions of all together depend on, see `weights_of`."""
        return weights_of([one.weights for one in self.members])

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user of these teachers should know."""
        notes = [f"{one.name}: {OTHER_ORDER}" for one in self.members if _has_other_order(one)]
        notes += [note for one in self.members if isinstance(one, Given) for note in one.notes]
        if self.precision != "float32" and not any(isinstance(one, Teacher) for one in self.members):
            notes.append(f"objective.teacher_precision has no effect here: {self.names[0]} is no network that computes")
        return tuple(notes)


# By position it would teach other classes.
OTHER_ORDER = "its classes stand in another order than the data's; they are matched by name"


def _has_other_order(teacher: AnyTeacher) -> bool:
    return not isinstance(teacher, Given) and teacher.columns_C != tuple(range(len(teacher.columns_C)))


@contextmanager
def asking(clock: Clock) -> Iterator[None]:
    """Around what is asked of a teacher in the midst of a training: one process asks, and the others find what it leaves. A loader
    of rows draws from torch's random numbers, on which dropout goes on as if nobody had asked."""
    with clock, PartialState().main_process_first(), torch.random.fork_rng(devices=[]):
        yield


class Live:
    """Answers the views of an epoch as it begins, through the teacher's own tokenizer or processor: kept as the answers to rows
    are, so that a run that goes on, or another one of the same views, finds them.

    Views of pictures are those of the student's pixels, which the teacher's processor normalises; see `check_views`.

    Args:
        budget_gb: see `ask`.
    """

    def __init__(self, teacher: Teacher | Pipeline, budget_gb: float) -> None:
        self.teacher, self.budget_gb, self.clock = teacher, budget_gb, Clock()

    def __call__(self, views: AugmentedRows) -> Logits:
        """Logits (N, C) of the epoch's views."""
        with asking(self.clock):
            return _of_views(self.teacher, views, self.budget_gb)

    @property
    def seconds(self) -> float:
        """What the teacher took."""
        return self.clock.seconds


class LiveMean:
    """Answers views as several teachers do together, see `mean_logits`."""

    def __init__(self, members: Sequence[Live]) -> None:
        self.members = members

    def __call__(self, views: AugmentedRows) -> Logits:
        """Logits (N, C) of the epoch's views."""
        return Mean([member(views) for member in self.members])

    @property
    def seconds(self) -> float:
        """What the teachers took."""
        return sum(member.seconds for member in self.members)


def weights_of(members: Sequence[str]) -> str:
    """What the answers of teachers together depend on, by the `weights` of each: of one, its own."""
    return members[0] if len(members) == 1 else hashing.of_json(list(members))


def check_views(name: str, theirs: ImageInputs, inputs: ImageInputs, images: list[dict[str, Any]]) -> None:
    """Refuse a teacher that reads pictures at another size than the student: a view has one size.

    Args:
        name: the teacher's.
        theirs, inputs: the teacher's and the student's.
        images: some of the data.

    Raises:
        InputError: naming both sizes; or its processor cannot be handed pixels.
    """
    check_augmentable(theirs.processor, images, "data.augment beside this teacher")
    sides = [tuple(i.pixels(images).shape[-2:]) for i in (theirs, inputs)]
    if sides[0] != sides[1]:
        raise InputError(
            f"data.augment: expected none beside {name}, which reads pictures of {sides[0]}, while the student reads "
            f"{sides[1]}; leave it out, or take a teacher of the same size"
        )


@dataclass(frozen=True)
class Answers:
    """What a teacher, or several together, say of a run's rows."""

    names: tuple[str, ...]
    """See `Teacher`; of each."""
    weights: str
    """See `Teacher`, and `weights_of`."""
    logits: dict[str, np.ndarray]
    """By split that is evaluated, shape (N, C), float32."""
    reused: bool
    """Whether all of them, and those of training, were found where an earlier run left them."""
    training: Logits | None = None
    """Of the training rows; None where `live` answers their views."""
    live: Live | LiveMean | None = None
    """What answers the views of training rows that change in every epoch."""
    members: tuple[Answers, ...] = ()
    """What each of several says by itself."""
    seen: tuple[str, ...] = ()
    """What speaks against it by what it was trained on, see `data.provenance.teacher_overlaps`."""

    @property
    def of_training(self) -> Logits | Live | LiveMean:
        """What a `DistillationTrainer` asks."""
        found = self.training if self.live is None else self.live
        assert found is not None, "the training rows were not asked about"
        return found


def ask(
    teachers: Sequence[AnyTeacher], splits: Mapping[str, Dataset], *, budget_gb: float, live: bool = False
) -> Answers:
    """The answers to all rows, in float32: where an earlier run left them, else computed and kept, for each teacher by
    itself; of several the mean, see `mean_logits`.

    Args:
        teachers: one or more.
        splits: canonical rows by the split's name.
        live: the training rows are asked about epoch by epoch, in other views each time, see `Live`.
        budget_gb: gigabytes (10^9 bytes) that all stores may take on the disk.
    """
    each = tuple(_ask_one(teacher, splits, budget_gb=budget_gb, live=live) for teacher in teachers)
    if len(each) == 1:
        return each[0]
    return Answers(
        tuple(name for one in each for name in one.names),
        weights_of([one.weights for one in each]),
        {split: mean_logits([one.logits[split] for one in each]) for split in each[0].logits},
        all(one.reused for one in each),
        None if live else Mean([one.training for one in each if one.training is not None]),
        LiveMean([one.live for one in each if isinstance(one.live, Live)]) if live else None,
        each,
    )


def _ask_one(teacher: AnyTeacher, splits: Mapping[str, Dataset], *, budget_gb: float, live: bool) -> Answers:
    if isinstance(teacher, Given):
        assert not live, "its answers are of the rows as they are"
        given = {name: teacher.of(rows, name) for name, rows in splits.items()}
        of_training = given.pop("train", None)
        return Answers((teacher.name,), teacher.weights, given, reused=True, training=of_training)
    if isinstance(teacher, Teacher) and teacher.classifier.kind == "text":
        pairs = "text_pair" in splits["validation"].column_names
        if teacher.classifier.pairs and not pairs:
            logger.warning("%s: the teacher was trained on pairs of texts, and these are single texts", teacher.name)
        if pairs and not teacher.classifier.pairs:
            logger.warning(
                "%s: these are pairs of texts, and nothing says that the teacher was trained on such", teacher.name
            )
    wanted = {name: rows for name, rows in splits.items() if not (live and name == "train")}
    found = {
        name: _of_texts(teacher, rows, name, budget_gb)
        if isinstance(teacher, Pipeline)
        else _logits(teacher, rows, name, budget_gb)
        for name, rows in wanted.items()
    }
    logits = {name: kept for name, (kept, _) in found.items()}
    training = logits.pop("train", None)
    return Answers(
        (teacher.name,),
        teacher.weights,
        {name: kept[np.arange(len(kept))] for name, kept in logits.items()},
        all(reused for _, reused in found.values()),
        training,
        Live(teacher, budget_gb) if live else None,
    )


def embeddings(
    teacher: Teacher, rows: Dataset | AugmentedRows, split: str, pooling: PoolingKind, *, budget_gb: float
) -> Kept:
    """The teacher's embeddings of all rows, shape (N, D), float32: found or computed and kept, as its answers are.

    Args:
        rows: canonical rows; or views, of which those of their epoch.
        split: what the rows are called.
        budget_gb: see `ask`.
    """
    return _asked(teacher, rows, split, budget_gb, pooling)[0]


def _of_views(teacher: Teacher | Pipeline, views: AugmentedRows, budget_gb: float) -> Logits:
    called = f"epoch {views.epoch}"
    if isinstance(teacher, Pipeline):
        return _of_texts(teacher, views.texts(), called, budget_gb)[0]
    return _logits(teacher, views, called, budget_gb)[0]


def _logits(teacher: Teacher, rows: Dataset | AugmentedRows, split: str, budget_gb: float) -> tuple[Kept, bool]:
    """Logits of the data's classes, and whether they were found."""
    kept, found = _asked(teacher, rows, split, budget_gb)
    return replace(kept, columns_C=teacher.columns_C), found


@dataclass(frozen=True)
class AsRead:
    """Rows as a network reads them."""

    seen: str
    """SHA-256 of what it is given, or of all that this depends on."""
    rows: torch.utils.data.Dataset
    lengths_N: np.ndarray | None
    """Tokens of each; None of pictures."""


def read_by(inputs: Inputs, rows: Dataset | AugmentedRows) -> AsRead:
    """Rows as these inputs read them."""
    if isinstance(inputs, TextInputs):
        encoded = inputs.encode_in_memory(rows.texts() if isinstance(rows, AugmentedRows) else rows)
        tokens = Rows(encoded, columns_of(inputs, labels=False))
        return AsRead(hashing.of_columns(encoded), tokens, inputs.lengths(encoded))
    if isinstance(rows, AugmentedRows):
        return AsRead(hashing.of_json([inputs.processor.to_json_string(), rows.identity]), rows, None)
    pictures = b"".join(row_digests(rows.with_format("arrow")[:]))
    seen = hashing.of_json([inputs.processor.to_json_string(), pictures.hex()])
    return AsRead(seen, Rows(inputs.encode(rows), columns_of(inputs, labels=False)), None)


def asked_of(teacher: Teacher, read: AsRead, precision: Precision) -> dict[str, Any]:
    """What a teacher's answers to rows, and its inside, depend on, as JSON has it."""
    model = teacher.classifier.model
    return {
        "weights": teacher.weights,
        "rows": read.seen,
        "attention": model.config._attn_implementation,
        "device": next(model.parameters()).device.type,
        "precision": precision,
        "versions": {name: environment.versions()[name] for name in ("torch", "transformers")},
    }


def _asked(
    teacher: Teacher, rows: Dataset | AugmentedRows, split: str, budget_gb: float, pooling: PoolingKind | None = None
) -> tuple[Kept, bool]:
    """Logits of the teacher's own classes, in its own order, and whether they were found; with `pooling`, embeddings."""
    classifier = teacher.classifier
    inputs, model = classifier.inputs, classifier.model
    read = read_by(inputs, rows)
    precision = teacher.precision if pooling is None else "float32"
    parts = asked_of(teacher, read, precision) | ({} if pooling is None else {"embeddings": pooling})
    options: dict[str, Any] = {"batch_size": None, "tokens": TOKENS}

    # Also in the midst of a training whose own products are less exact.
    @exact_float32()
    def answer(numbers: np.ndarray) -> np.ndarray:
        some = Subset(read.rows, numbers.tolist())
        lengths = None if read.lengths_N is None else read.lengths_N[numbers]
        if teacher.precision == "bf16" and pooling is None:
            # Anew for each chunk: what it computes again must not depend on those before, which a killed run had.
            found = HalfPrecision(model, inputs.collate, rescore=True, **options).logits(some, lengths)
        else:
            progress = f"the teacher answers {split}"
            asked = model if pooling is None else EmbeddingModel(model, pooling)
            found = predict_logits(asked, some, inputs.collate, lengths=lengths, progress=progress, **options)
        return _finite(found, numbers, teacher.name, split)

    numbers, size = len(classifier.labels) if pooling is None else width_of(model.config), PART_ROWS[classifier.kind]
    chunks, found = keep(
        parts,
        len(rows),
        answer,
        numbers=numbers,
        likeliest=pooling is None and not teacher.whole,
        size=size,
        budget_gb=budget_gb,
        name=split,
    )
    return Kept(chunks, numbers, tuple(range(numbers))), found


def _finite(found_nC: np.ndarray, numbers: np.ndarray, name: str, split: str) -> np.ndarray:
    """Answers (n, C) to the rows of these numbers, as they are.

    Raises:
        InputError: one is no number, or infinite: nothing could be learned from it, and it would be kept.
    """
    if not np.isfinite(found_nC).all():
        first = int(np.flatnonzero(~np.isfinite(found_nC).all(axis=1))[0])
        raise InputError(
            f"objective.teacher: {name}: its answer to row {numbers[first] + 1} of {split} is not finite "
            f"({', '.join(f'{v:.3g}' for v in found_nC[first][:5])}); its weights may be damaged, expected another teacher"
        )
    return found_nC


def _of_texts(teacher: Pipeline, rows: Dataset, split: str, budget_gb: float) -> tuple[Kept, bool]:
    """As `_logits`, of a pipeline."""
    texts = rows["text"][:]
    parts = {"weights": teacher.weights, "rows": b"".join(row_digests(rows.with_format("arrow")[:])).hex()}
    chunks, found = keep(
        parts,
        len(texts),
        lambda numbers: _finite(teacher.logits([texts[i] for i in numbers]), numbers, teacher.name, split),
        numbers=teacher.classes,
        likeliest=not teacher.whole,
        size=PART_ROWS["text"],
        budget_gb=budget_gb,
        name=split,
    )
    return Kept(chunks, teacher.classes, teacher.columns_C), found
