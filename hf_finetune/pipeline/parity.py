"""The parity gate: plain libraries in a fresh process must compute the trained model's logits from a saved artifact.

Legend: N rows, C classes.
"""

import io
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import nn

from hf_finetune.data.image_decoding import EncodedImage, decode, upright_size
from hf_finetune.data.inputs import Inputs, Rows, TextInputs, columns_of
from hf_finetune.data.thumbnails import LARGE_PIXELS, small_copy
from hf_finetune.data.word_inputs import PLACES
from hf_finetune.errors import GateError, InputError
from hf_finetune.evaluation.logits import predict_logits
from hf_finetune.hub import plain_loading
from hf_finetune.hub.plain_scripts import NETWORK
from hf_finetune.pipeline.context import RunContext
from hf_finetune.pipeline.evaluate import Evaluation
from hf_finetune.pipeline.train import TrainedRun
from hf_finetune.training.precision import exact_float32
from hf_finetune.utils.artifacts import ArtifactKind
from hf_finetune.utils.files import read_object
from hf_finetune.utils.fresh_process import in_fresh_process

TOLERANCE = 1e-4
LOAD_S = 1.0
"""Seconds to load a model in a fresh process, whose imports take as long as those of this one."""
Checks = dict[str, "Check"]
"""A check by the name of each artifact."""


@dataclass(frozen=True)
class Artifact:
    """A folder to load: a complete model, an encoder with a separate head, or an adapter on a base checkpoint."""

    name: str
    path: Path
    base: str | None = None
    """Base checkpoint of an adapter. None for other kinds."""
    revision: str | None = None
    head: Path | None = None
    """head.safetensors of an encoder. None for other kinds."""

    @property
    def kind(self) -> ArtifactKind:
        """Kind of the folder."""
        return "adapter" if self.base is not None else "model" if self.head is None else "encoder"

    def to_job(self) -> plain_loading.Artifact:
        """Return the artifact as `hub.plain_loading` reads it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "path": str(self.path),
            "base": self.base,
            "revision": self.revision,
            "head": None if self.head is None else str(self.head),
        }


@dataclass(frozen=True)
class Check:
    """Result of comparing an artifact, or `pipeline(task, folder)` on it, with the model."""

    ok: bool
    rows: int | None = None
    max_abs_difference: float | None = None
    """Largest difference of the logits."""
    tolerance: float | None = None
    labels_agree: int | None = None
    """Number of rows for which `pipeline` predicts the model's label."""
    error: str | None = None
    """Why the fresh process could not load or run the artifact."""

    def to_dict(self) -> dict[str, Any]:
        """Return the check as result.json has it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def reference_logits(model: nn.Module, inputs: Inputs, encoded: Dataset) -> np.ndarray:
    """Return logits (N, C) in exact float32, from the same batches of consecutive rows as the fresh process."""
    rows = Rows(encoded, columns_of(inputs, labels=False))
    with exact_float32():
        return predict_logits(model, rows, inputs.collate, batch_size=plain_loading.BATCH_ROWS)


def rows_to_load(rows: Dataset, encoded: Dataset) -> Dataset:
    """Return what a fresh process reads: the rows; of words the windows of their texts, and the places to score."""
    return encoded.select_columns(["text", PLACES]) if PLACES in encoded.column_names else rows


@contextmanager
def checking(
    artifacts: Sequence[Artifact],
    *,
    rows: Dataset,
    expected_NC: np.ndarray,
    labels: Sequence[str],
    task: str,
    size: float = 1.0,
    long: dict[str, int] | None = None,
    pipeline_NC: np.ndarray | None = None,
    trust_remote_code: bool = False,
) -> Iterator[Callable[[], Checks]]:
    """Load all artifacts in a fresh process, beside the block, to compare their logits with `expected_NC`.

    Args:
        rows: see `rows_to_load`, N of them.
        expected_NC: see `reference_logits`, shape (N, C).
        labels: class names, which `pipeline(task, folder)` must predict.
        size: of the logits, to which the tolerance is relative.
        long: how long texts are read, see `plain_settings`. None: they are cut off.
        pipeline_NC: logits of the first rows as `pipeline` reads them, which cuts off long texts. None: the same.

    Yields:
        Waits for the process, and returns a check of each artifact, and one of the predicted labels by the name
        `pipeline`.
    """

    def checks() -> Checks:
        error = end()
        if error is not None:
            return {artifact.name: Check(ok=False, error=error) for artifact in artifacts}
        with np.load(job.with_suffix(".npz")) as archive:
            logits = {artifact.name: archive[artifact.name] for artifact in artifacts}
        predicted = json.loads((job.parent / "labels.json").read_text())
        found = {name: compare(logits_NC, expected_NC, TOLERANCE * size) for name, logits_NC in logits.items()}
        if predicted is not None:
            plain_NC = expected_NC if pipeline_NC is None else pipeline_NC
            found["pipeline"] = _compare_labels(predicted, plain_NC[: len(predicted)], labels)
        return found

    with tempfile.TemporaryDirectory(prefix="hf_finetune_parity_") as name:
        job = Path(name) / "job.json"
        description: plain_loading.Job = {
            "task": task,
            "rows": plain_rows(rows, job.parent),
            "long": long,
            "num_labels": len(labels),
            "threads": torch.get_num_threads(),
            "trust_remote_code": trust_remote_code,
            "artifacts": [artifact.to_job() for artifact in artifacts],
        }
        job.write_text(json.dumps(description))
        with in_fresh_process(NETWORK, job) as end:
            yield checks


def gate_seconds(context: RunContext, row_s: float) -> float:
    """Return the seconds of the gate: both processes score its rows, and `pipeline` the first ones.

    Args:
        row_s: to predict a row.
    """
    rows = 2 * context.recipe.evaluate.parity_rows + plain_loading.BATCH_ROWS
    return context.startup_s + LOAD_S + rows * row_s


@contextmanager
def verifying(
    trained: TrainedRun, artifacts: Sequence[Artifact], evaluation: Evaluation
) -> Iterator[Callable[[], Checks]]:
    """Compare the artifacts with the network on the judged rows, and on training rows where these are few.

    Yields:
        As `checking`. The time that the block does not wait is none of the gate.
    """
    run, recipe, clock = trained.run, trained.run.recipe, trained.clock
    with clock.measure("parity_s", shown=False):
        rows = concatenate_datasets([evaluation.judged_split.rows, run.data.splits.train])
        rows = with_small_images(rows.select(range(min(recipe.evaluate.parity_rows, len(rows)))))
        inputs = run.data.inputs.for_inference()
        encoded, pipeline_NC = inputs.encode(rows), None
        expected_NC = reference_logits(trained.network, inputs, encoded)
        if (long := plain_settings(inputs)) is not None:
            assert isinstance(inputs, TextInputs), "images are not long"
            first, plain = rows.select(range(min(plain_loading.BATCH_ROWS, len(rows)))), inputs.truncating()
            pipeline_NC = reference_logits(trained.network, plain, plain.encode(first))
    with checking(
        artifacts,
        rows=rows_to_load(rows, encoded),
        expected_NC=expected_NC,
        size=trained.task.logit_size(expected_NC),
        labels=run.data.splits.labels,
        task=run.hub_task,
        long=long,
        pipeline_NC=pipeline_NC,
        trust_remote_code=recipe.model.trust_remote_code,
    ) as checks:
        yield clock.measure("parity_s")(checks)


def plain_settings(inputs: Inputs) -> dict[str, int] | None:
    """Return how plain libraries read long texts as these inputs do. None: they cut them off, or rows are images."""
    return inputs.long.plain_settings(inputs.max_length) if isinstance(inputs, TextInputs) else None


def with_small_images(rows: Dataset) -> Dataset:
    """Return the rows with reduced copies of large images, of which the fresh process decodes several at once."""
    if "image" not in rows.column_names or not any(map(_is_large, rows["image"])):
        return rows
    return rows.map(lambda row: {"image": _small(row["image"])}, features=rows.features, keep_in_memory=True)


def _is_large(image: EncodedImage) -> bool:
    return math.prod(upright_size(image)) > LARGE_PIXELS


def _small(image: EncodedImage) -> EncodedImage:
    if not _is_large(image):
        return image
    content = io.BytesIO()
    small_copy(image).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def compare(logits_NC: np.ndarray, expected_NC: np.ndarray, tolerance: float) -> Check:
    difference = float(np.abs(logits_NC - expected_NC).max())
    # Not `difference > tolerance`: NaN must fail.
    return Check(ok=difference <= tolerance, rows=len(expected_NC), max_abs_difference=difference, tolerance=tolerance)


def _compare_labels(predicted: Sequence[str], expected_NC: np.ndarray, labels: Sequence[str]) -> Check:
    expected = [labels[i] for i in expected_NC.argmax(-1)]
    # Two classes closer than the tolerance may swap.
    ordered = np.sort(expected_NC, axis=-1)
    is_tie = ordered[:, -1] - ordered[:, -2] <= 2 * TOLERANCE if len(labels) > 1 else np.zeros(len(predicted), bool)
    agree = sum(one == other or bool(tie) for one, other, tie in zip(predicted, expected, is_tie, strict=True))
    return Check(ok=agree == len(predicted), rows=len(predicted), labels_agree=agree)


def recorded_checks(result: Mapping[str, Any]) -> dict[str, Check]:
    """Return the checks in the content of result.json; none of a run that was set aside, or of a model of others."""
    return {name: Check(**check) for name, check in (result.get("parity") or {}).items()}


def refuse_failed(checks: Mapping[str, Check]) -> None:
    """Raise the first failed check.

    Raises:
        GateError: naming the artifact and its difference.
    """
    for name, check in checks.items():
        if check.error is not None:
            raise GateError(f"parity: a fresh process could not load the saved folder: {check.error}")
        if not check.ok:
            value = check.labels_agree if check.max_abs_difference is None else check.max_abs_difference
            raise GateError(f"parity: {name} does not reproduce the trained model: {value} over {check.rows} rows")


def refuse_unverified(folder: Path) -> None:
    """Refuse a finished run with a failed check before anything else is made of its model.

    A folder that records no checks passes: it is a model of others, or a run of an earlier version.

    Raises:
        GateError: naming the folder, the artifact and its difference.
        InputError: its result.json records something else as checks.
    """
    path = folder / "result.json"
    try:
        refuse_failed(recorded_checks(read_object(path) or {}))
    except GateError as error:
        raise GateError(f"{folder}: {error}; train again") from None
    except (TypeError, AttributeError):
        raise InputError(f"{path}: parity: expected the checks of a run; restore it, or train again") from None


def plain_rows(rows: Dataset, folder: Path) -> list[dict[str, Any]]:
    """Return rows as plain libraries read them, whose images are written to files."""
    if "image" not in rows.column_names:
        columns = [c for c in ("text", "text_pair", PLACES) if c in rows.column_names]
        return rows.select_columns(columns).to_list()
    plain = []
    for number, image in enumerate(rows["image"]):
        path = folder / f"{number}.png"
        decode(image).save(path)
        plain.append({"image": str(path)})
    return plain
