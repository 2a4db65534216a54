"""Using a finished classifier: labels for new rows, and metrics for labelled ones."""

from __future__ import annotations

import csv
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from torch import nn
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from hf_finetune.data.inputs import ImageInputs, Inputs, Rows, TextInputs, columns_of
from hf_finetune.data.load import stream
from hf_finetune.errors import InputError
from hf_finetune.evaluation.inference import predict_logits
from hf_finetune.evaluation.intervals import bootstrap
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.models.load import load_classifier, load_image_processor, load_tokenizer
from hf_finetune.models.safety import inspect_checkpoint
from hf_finetune.training.precision import default_device

SUFFIXES = (".csv", ".parquet", ".jsonl")


@dataclass(frozen=True)
class Classifier:
    """A trained model with what turns rows into its inputs."""

    model: nn.Module
    inputs: Inputs
    labels: tuple[str, ...]

    @property
    def kind(self) -> Literal["text", "image"]:
        """What it reads."""
        return "text" if isinstance(self.inputs, TextInputs) else "image"


@dataclass(frozen=True)
class Source:
    """Rows to be labelled or scored; fields as in `recipe.TextData` and `recipe.ImageData`."""

    path: str
    config_name: str | None = None
    revision: str | None = None
    split: str | None = None
    text: str | None = None
    text_pair: str | None = None
    image: str | None = None
    label: str | None = None
    encoding: str = "utf-8"


def quiet_libraries() -> None:
    """No bars and chatter of the libraries: what is to be said, this package says."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()


def load_trained(checkpoint: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Classifier:
    """Load a run's folder, its model/ folder, or a Hub repository.

    Raises:
        InputError: when there is no such checkpoint, or it has no trained classification head.
    """
    quiet_libraries()
    local = inspect_checkpoint(checkpoint, revision=revision, trust_remote_code=trust_remote_code)
    config = json.loads((local.folder / "config.json").read_text(encoding="utf-8"))
    architecture = next(iter(config.get("architectures") or []), "")
    if not architecture.endswith(("ForSequenceClassification", "ForImageClassification")):
        raise InputError(
            f"{checkpoint}: {architecture or 'this'} is not a trained classifier; train one with `hf-finetune train`"
        )
    names = {int(i): str(name) for i, name in config.get("id2label", {0: "LABEL_0", 1: "LABEL_1"}).items()}
    labels = tuple(names[i] for i in sorted(names))
    task: Literal["text-classification", "image-classification"]
    task = "image-classification" if architecture.endswith("ForImageClassification") else "text-classification"
    loaded = load_classifier(str(local.folder), task=task, labels=labels, trust_remote_code=trust_remote_code, seed=0)
    if loaded.fresh:
        raise InputError(f"{checkpoint}: its weights lack {', '.join(loaded.fresh)}; this classifier was never trained")
    inputs: Inputs
    if task == "text-classification":
        stored = json.loads((local.folder / "tokenizer_config.json").read_text(encoding="utf-8")).get(
            "model_max_length"
        )
        # A tokenizer that was saved without a limit says 1e30.
        max_length = stored if isinstance(stored, int) and stored <= 8192 else 128
        tokenizer = load_tokenizer(
            str(local.folder), max_length=max_length, trust_remote_code=trust_remote_code, sample=[]
        )
        inputs = TextInputs(tokenizer, max_length)
    else:
        inputs = ImageInputs(load_image_processor(str(local.folder), trust_remote_code=trust_remote_code))
    return Classifier(loaded.model.to(default_device()).eval(), inputs, labels)


def probabilities(classifier: Classifier, rows: Dataset, *, batch_size: int = 64) -> np.ndarray:
    """Class probabilities (N, C) of canonical rows."""
    inputs = classifier.inputs
    encoded = inputs.encode(rows)
    logits = predict_logits(
        classifier.model,
        Rows(encoded, columns_of(inputs, labels=False)),
        inputs.collate,
        batch_size=batch_size,
        lengths=inputs.lengths(encoded),
    )
    return softmax(logits)


def check_output(output: Path, data: str) -> None:
    """Refuse a file that predictions cannot be written to, before anything is loaded.

    Raises:
        InputError: when it is a folder, of another format, or the very data that are to be labelled.
    """
    if output.suffix.lower() not in SUFFIXES:
        raise InputError(f"--output {output}: expected a name ending in {', '.join(SUFFIXES)}")
    if output.is_dir():
        raise InputError(f"--output {output}: this is a folder, expected a file")
    if output.exists() and Path(data).exists() and output.samefile(data):
        raise InputError(f"--output {output}: these are the rows to label; name another file")


def predict(classifier: Classifier, source: Source, output: Path, *, batch_size: int = 64) -> int:
    """Label every row of `source` and write row, predicted and p:<name> per class, in the source's order.

    The source is read and the answer written a part at a time; `output` appears when it is whole.

    Returns:
        Rows written.

    Raises:
        InputError: for an output that is not .csv, .parquet or .jsonl, or unreadable rows; `output` is not touched.
    """
    check_output(output, source.path)
    written = 0
    with _table_writer(output, classifier.labels) as write, _bar("predict") as bar:
        for rows in _batches(classifier, source, batch_size=batch_size, require_label=False):
            found = probabilities(classifier, rows, batch_size=batch_size)
            write(rows["row"][:], found)
            written += len(rows)
            bar.update(len(rows))
    return written


def evaluate(classifier: Classifier, source: Source, *, batch_size: int = 64, resamples: int = 1000) -> dict[str, Any]:
    """Score labelled rows: {"rows", "metrics" with intervals, "throughput"}.

    Raises:
        InputError: for a row without a label, or with one that the classifier does not know.
    """
    labels, found, seconds = [], [], 0.0
    with _bar("evaluate") as bar:
        for rows in _batches(classifier, source, batch_size=batch_size, require_label=True):
            started = time.perf_counter()
            found.append(probabilities(classifier, rows, batch_size=batch_size))
            seconds += time.perf_counter() - started
            labels.append(np.asarray(rows["label"][:]))
            bar.update(len(rows))
    all_labels = np.concatenate(labels)
    intervals = bootstrap(all_labels, np.concatenate(found), resamples=resamples)
    return {
        "rows": len(all_labels),
        "metrics": {name: interval.to_dict() for name, interval in intervals.items()},
        "throughput": {"predict_rows_per_s": round(len(all_labels) / seconds, 2)},
    }


def _batches(classifier: Classifier, source: Source, *, batch_size: int, require_label: bool) -> Iterator[Dataset]:
    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: expected at least 1")
    own = (
        {"text": source.text, "text_pair": source.text_pair, "encoding": source.encoding}
        if classifier.kind == "text"
        else {"image": source.image}
    )
    return stream(
        source.path,
        kind=classifier.kind,
        config_name=source.config_name,
        revision=source.revision,
        split=source.split,
        label=source.label,
        labels=classifier.labels,
        require_label=require_label,
        **own,
    )


@contextmanager
def _bar(name: str) -> Iterator[tqdm]:
    # On a terminal only, and wiped off at the end: a bad row is told on the first line.
    with tqdm(desc=name, unit="row", dynamic_ncols=True, leave=False, disable=None) as bar:
        yield bar


@contextmanager
def _table_writer(output: Path, labels: tuple[str, ...]) -> Iterator[Any]:
    """A function `(rows (N,), probabilities (N, C))` that appends to a temporary file, renamed to `output` at the end.

    It lies in the nearest folder that there is: folders that are missing are made at the end, with the file.
    """
    home = next(p for p in output.absolute().parents if p.exists())
    try:
        handle, name = tempfile.mkstemp(dir=home, prefix=f".{output.name}.")
    except OSError as error:
        raise InputError(f"--output {output}: nothing can be written to {home} ({error.strerror})") from None
    os.close(handle)
    temporary, suffix = Path(name), output.suffix.lower()
    columns = ["row", "predicted", *(f"p:{label}" for label in labels)]
    schema = pa.schema([("row", pa.int64()), ("predicted", pa.string()), *((c, pa.float32()) for c in columns[2:])])

    def table(rows: list[int], found: np.ndarray) -> pa.Table:
        predicted = [labels[i] for i in found.argmax(-1)]
        arrays = [pa.array(rows, pa.int64()), pa.array(predicted), *(pa.array(p.astype(np.float32)) for p in found.T)]
        return pa.Table.from_arrays(arrays, schema=schema)

    try:
        if suffix == ".parquet":
            with pq.ParquetWriter(temporary, schema) as writer:
                yield lambda rows, found: writer.write_table(table(rows, found))
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                lines = csv.writer(file)
                if suffix == ".csv":
                    lines.writerow(columns)

                def write(rows: list[int], found: np.ndarray) -> None:
                    for record in table(rows, found).to_pylist():
                        if suffix == ".csv":
                            lines.writerow(record.values())
                        else:
                            file.write(json.dumps(record, ensure_ascii=False) + "\n")

                yield write
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        output.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)


def write_predictions(
    path: Path, splits: dict[str, Dataset], probabilities: dict[str, np.ndarray], labels: tuple[str, ...]
) -> None:
    """predictions.parquet of a run: row, split, label, predicted, and p:<name> per class."""
    tables = []
    for split, rows in splits.items():
        found = probabilities[split]
        names = np.asarray(labels, dtype=object)
        columns = {
            "row": pa.array(rows["row"][:], pa.int64()),
            "split": pa.array([split] * len(rows)),
            "label": pa.array(names[np.asarray(rows["label"][:])]),
            "predicted": pa.array(names[found.argmax(-1)]),
            **{f"p:{label}": pa.array(found[:, i].astype(np.float32)) for i, label in enumerate(labels)},
        }
        tables.append(pa.table(columns))
    temporary = path.with_name(f".{path.name}.partial")
    pq.write_table(pa.concat_tables(tables), temporary)
    os.replace(temporary, path)
