"""Using a finished classifier: labels for new rows, and metrics for labelled ones."""

from __future__ import annotations

import csv
import json
import logging
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
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from hf_finetune.artefacts import artefacts_in
from hf_finetune.data.inputs import ImageInputs, Inputs, Rows, TextInputs, columns_of
from hf_finetune.data.load import stream
from hf_finetune.data.named import Source
from hf_finetune.errors import InputError
from hf_finetune.evaluation.half import HalfPrecision
from hf_finetune.evaluation.inference import predict_logits
from hf_finetune.evaluation.intervals import bootstrap
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.models.adapters import load_adapter
from hf_finetune.models.first_token import first_token_alone
from hf_finetune.models.head_file import load_pooled
from hf_finetune.models.load import Task, load_classifier
from hf_finetune.models.processors import load_image_processor, load_tokenizer
from hf_finetune.models.safety import LocalCheckpoint, adapter_alone, inspect_checkpoint
from hf_finetune.training.precision import default_device, has_native_bf16

logger = logging.getLogger("hf_finetune")
SUFFIXES = (".csv", ".parquet", ".jsonl")
Precision = Literal["auto", "float32", "bf16"]

# Rows are sorted by length within parts of so many: texts are small, and a longer part has less padding.
PART_ROWS = {"text": 8192, "image": 512}
# Padded tokens of a forward pass that a processor's caches hold: with 512 rows of 12, or 48 of 128, it is 10 to 30%
# slower, with a quarter of these tokens as well.
TOKENS = 2048
# With fewer rows, comparing the two formats costs what bfloat16 gains.
FEWEST_ROWS = 256


@dataclass(frozen=True)
class Classifier:
    """A trained model with what turns rows into its inputs."""

    model: nn.Module
    inputs: Inputs
    labels: tuple[str, ...]
    pairs: bool = False
    """Whether it was trained on pairs of texts."""

    @property
    def kind(self) -> Literal["text", "image"]:
        """What it reads."""
        return "text" if isinstance(self.inputs, TextInputs) else "image"


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
    if (alone := adapter_alone(checkpoint, revision=revision)) is not None:
        return _with_adapter(checkpoint, alone, trust_remote_code)
    local = inspect_checkpoint(checkpoint, revision=revision, trust_remote_code=trust_remote_code)
    if artefacts_in(local.folder.parent).get("encoder") == local.folder:
        model, task, labels = load_pooled(local.folder.parent)
        return _classifier(model, local, task, labels)
    config = json.loads((local.folder / "config.json").read_text(encoding="utf-8"))
    architecture = next(iter(config.get("architectures") or []), "")
    if not architecture.endswith(("ForSequenceClassification", "ForImageClassification")):
        raise InputError(
            f"{checkpoint}: {architecture or 'this'} is not a trained classifier; train one with `hf-finetune train`"
        )
    names = {int(i): str(name) for i, name in config.get("id2label", {0: "LABEL_0", 1: "LABEL_1"}).items()}
    labels = tuple(names[i] for i in sorted(names))
    task: Task = "image-classification" if architecture.endswith("ForImageClassification") else "text-classification"
    loaded = load_classifier(str(local.folder), task=task, labels=labels, trust_remote_code=trust_remote_code, seed=0)
    if loaded.fresh:
        raise InputError(f"{checkpoint}: its weights lack {', '.join(loaded.fresh)}; this classifier was never trained")
    return _classifier(loaded.model, local, task, labels, trust_remote_code)


def _with_adapter(checkpoint: str, folder: Path, trust_remote_code: bool) -> Classifier:
    """A run that is an adapter alone, on the checkpoint that it names."""
    config, adapter = (json.loads((folder / n).read_text("utf-8")) for n in ("config.json", "adapter_config.json"))
    base, revision = adapter.get("base_model_name_or_path"), adapter.get("revision")
    if not base:
        raise InputError(f"{checkpoint}: its adapter_config.json does not name the checkpoint that it was trained on")
    which = {"revision": revision, "trust_remote_code": trust_remote_code}
    text = (folder / "tokenizer_config.json").is_file()
    task: Task = "text-classification" if text else "image-classification"
    labels = tuple(str(config["id2label"][i]) for i in sorted(config["id2label"], key=int))
    loaded = load_classifier(base, task=task, labels=labels, seed=0, **which)
    first_token_alone(loaded.model)
    model = load_adapter(loaded.model, folder).to(default_device()).eval()
    inputs: Inputs
    if text:
        length = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))["model_max_length"]
        inputs = TextInputs(load_tokenizer(base, max_length=length, sample=[], **which), length)
    else:
        inputs = ImageInputs(load_image_processor(base, **which))
    return Classifier(model, inputs, labels, bool(config.get("trained_on_pairs")))


def _classifier(
    model: PreTrainedModel, local: LocalCheckpoint, task: Task, labels: tuple[str, ...], trust_remote_code: bool = False
) -> Classifier:
    """The model with its tokenizer or image processor."""
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
    # What its head does not read need not be computed.
    first_token_alone(model)
    return Classifier(model.to(default_device()).eval(), inputs, labels, bool(local.config.get("trained_on_pairs")))


class Scorer:
    """Class probabilities of canonical rows, part by part.

    Args:
        precision: float32; bf16; or auto: bf16 where the hardware multiplies it natively and there are rows enough to
            gain by it, with every row again in float32 whose label could be another there, see `evaluation.half`.
        batch_size: rows of a forward pass; None: as many as have `TOKENS` tokens together, or 64 pictures.

    Raises:
        InputError: bf16 on a device without it, or a batch of no rows.
    """

    def __init__(self, classifier: Classifier, precision: Precision, *, batch_size: int | None = None) -> None:
        if batch_size is not None and batch_size < 1:
            raise InputError(f"--batch-size {batch_size}: expected at least 1")
        native = has_native_bf16(default_device())
        if precision == "bf16" and not native:
            raise InputError(
                f"--precision bf16: this {default_device().type} does not multiply bf16 natively; use float32"
            )
        self.classifier, self.batch_size = classifier, batch_size
        self.precision = "float32" if precision == "auto" and not native else precision
        self.half: HalfPrecision | None = None

    def probabilities(self, rows: Dataset) -> np.ndarray:
        """Shape (N, C), N rows, C classes."""
        inputs, options = self.classifier.inputs, {"batch_size": self.batch_size, "tokens": TOKENS}
        if self.precision == "auto" and self.half is None and len(rows) < FEWEST_ROWS:
            self.precision = "float32"
        encoded = inputs.encode_in_memory(rows) if isinstance(inputs, TextInputs) else inputs.encode(rows)
        batches, lengths = Rows(encoded, columns_of(inputs, labels=False)), inputs.lengths(encoded)
        if self.precision == "float32":
            return softmax(predict_logits(self.classifier.model, batches, inputs.collate, lengths=lengths, **options))
        if self.half is None:
            rescore = self.precision == "auto"
            self.half = HalfPrecision(self.classifier.model, inputs.collate, rescore=rescore, **options)
        return softmax(self.half.logits(batches, lengths))

    def report(self) -> dict[str, Any]:
        """What was computed how, see `HalfPrecision.report`."""
        return {"format": "float32"} if self.half is None else self.half.report()


def probabilities(classifier: Classifier, rows: Dataset, *, batch_size: int | None = None) -> np.ndarray:
    """Class probabilities (N, C) of canonical rows, in float32."""
    return Scorer(classifier, "float32", batch_size=batch_size).probabilities(rows)


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


def predict(
    classifier: Classifier,
    source: Source,
    output: Path,
    *,
    batch_size: int | None = None,
    precision: Precision = "auto",
) -> int:
    """Label every row of `source` and write row, predicted and p:<name> per class, in the source's order.

    The source is read and the answer written a part at a time; `output` appears when it is whole. How far bfloat16 is
    from float32, where it was used, is logged.

    Args:
        batch_size, precision: see `Scorer`.

    Returns:
        Rows written.

    Raises:
        InputError: for an output that is not .csv, .parquet or .jsonl, or unreadable rows; `output` is not touched.
    """
    check_output(output, source.path)
    scorer = Scorer(classifier, precision, batch_size=batch_size)
    written = 0
    with _table_writer(output, classifier.labels) as write, _bar("predict") as bar:
        for rows in _batches(classifier, source, require_label=False):
            write(rows["row"][:], scorer.probabilities(rows))
            written += len(rows)
            bar.update(len(rows))
    if scorer.half is not None:
        found = scorer.report()
        logger.info(
            "computed in bfloat16: probabilities within %.2g of float32's on the %d rows computed in both, "
            "labels the same on %.1f%% of %d; %d rows with two close classes are given in float32",
            found["largest_probability_difference"],
            found["rows_compared"],
            100 * found["label_agreement"],
            found["rows_of_label_agreement"],
            found["rows_in_float32"],
        )
    return written


def evaluate(
    classifier: Classifier,
    source: Source,
    *,
    batch_size: int | None = None,
    resamples: int = 1000,
    precision: Precision = "auto",
) -> dict[str, Any]:
    """Score labelled rows: {"rows", "metrics" with intervals, "throughput", "precision"}.

    Args:
        batch_size: see `Scorer`.
        precision: auto is float32 here; with bf16 the labels' agreement with float32 stands under "precision".

    Raises:
        InputError: for a row without a label, or with one that the classifier does not know.
    """
    scorer = Scorer(classifier, "float32" if precision == "auto" else precision, batch_size=batch_size)
    labels, found, seconds = [], [], 0.0
    with _bar("evaluate") as bar:
        for rows in _batches(classifier, source, require_label=True):
            started = time.perf_counter()
            found.append(scorer.probabilities(rows))
            seconds += time.perf_counter() - started
            labels.append(np.asarray(rows["label"][:]))
            bar.update(len(rows))
    all_labels = np.concatenate(labels)
    intervals = bootstrap(all_labels, np.concatenate(found), resamples=resamples)
    return {
        "rows": len(all_labels),
        "metrics": {name: interval.to_dict() for name, interval in intervals.items()},
        "throughput": {"predict_rows_per_s": round(len(all_labels) / seconds, 2)},
        "precision": scorer.report(),
    }


def _batches(classifier: Classifier, source: Source, *, require_label: bool) -> Iterator[Dataset]:
    own = (
        {"text": source.text, "text_pair": source.text_pair, "encoding": source.encoding}
        if classifier.kind == "text"
        else {"image": source.image}
    )
    batches = stream(
        source.path,
        kind=classifier.kind,
        config_name=source.config_name,
        revision=source.revision,
        split=source.split,
        label=source.label,
        labels=classifier.labels,
        require_label=require_label,
        batch_rows=PART_ROWS[classifier.kind],
        **own,
    )
    for number, rows in enumerate(batches):
        if number == 0 and classifier.pairs and "text_pair" not in rows.column_names:
            logger.warning(
                "%s: the model was trained on pairs of texts and these are single texts, which it was never shown; "
                "name the second column by --text-pair",
                source.path,
            )
        yield rows


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
