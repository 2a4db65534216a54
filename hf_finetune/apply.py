"""Using a finished classifier: labels for new rows, and metrics for labelled ones."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import torch
from datasets import Dataset
from torch import nn
from tqdm import tqdm
from transformers import DeiTForImageClassificationWithTeacher, PreTrainedModel
from transformers.utils import logging as transformers_logging

from hf_finetune.artefacts import artefacts_in
from hf_finetune.data.decoded import Pictures, decoded
from hf_finetune.data.inputs import ImageInputs, Inputs, Rows, TextInputs, columns_of
from hf_finetune.data.load import stream
from hf_finetune.data.named import Source
from hf_finetune.data.splits import row_digests
from hf_finetune.data.test_time import SeveralViews
from hf_finetune.errors import InputError
from hf_finetune.evaluation.half import HalfPrecision
from hf_finetune.evaluation.inference import predict_logits
from hf_finetune.evaluation.intervals import bootstrap
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.evaluation.views import gain, mean_of
from hf_finetune.models.adapters import load_adapter
from hf_finetune.models.first_token import first_token_alone
from hf_finetune.models.fused_layers import fused_layers
from hf_finetune.models.head_file import load_pooled
from hf_finetune.models.load import Task, load_classifier
from hf_finetune.models.processors import load_image_processor, load_tokenizer, positions_of
from hf_finetune.models.safety import LocalCheckpoint, adapter_alone, inspect_checkpoint
from hf_finetune.tables import check_output, table_writer
from hf_finetune.training.precision import default_device, has_native_bf16

logger = logging.getLogger("hf_finetune")
Precision = Literal["auto", "float32", "bf16"]

# Rows are sorted by length within parts of so many: texts are small, and a longer part has less padding.
PART_ROWS = {"text": 8192, "image": 512}
# Padded tokens of a forward pass that a processor's caches hold: with 512 rows of 12, or 48 of 128, it is 10 to 30%
# slower, with a quarter of these tokens as well.
TOKENS = 2048
# With fewer rows, comparing the two formats costs what bfloat16 gains.
FEWEST_ROWS = 256
# Where neither its tokenizer nor its config says how many tokens a classifier reads; and a stored limit above is none.
UNKNOWN_LENGTH, MOST_STORED = 512, 100_000


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
    distilled = architecture == DeiTForImageClassificationWithTeacher.__name__
    if not distilled and not architecture.endswith(("ForSequenceClassification", "ForImageClassification")):
        raise InputError(
            f"{checkpoint}: {architecture or 'this'} is not a trained classifier; train one with `hf-finetune train`"
        )
    if (problem := config.get("problem_type")) in ("multi_label_classification", "regression"):
        raise InputError(
            f"{checkpoint}: its config.json says problem_type {problem}, which is not supported yet; expected a classifier that "
            "gives each row one class"
        )
    names = {int(i): str(name) for i, name in config.get("id2label", {0: "LABEL_0", 1: "LABEL_1"}).items()}
    labels = tuple(names[i] for i in sorted(names))
    task: Task = "image-classification" if "ForImageClassification" in architecture else "text-classification"
    loaded = load_classifier(
        str(local.folder), task=task, labels=labels, trust_remote_code=trust_remote_code, seed=0, distilled=distilled
    )
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
        max_length = _max_length(model, local)
        tokenizer = load_tokenizer(
            str(local.folder), max_length=max_length, trust_remote_code=trust_remote_code, sample=[]
        )
        inputs = TextInputs(tokenizer, max_length)
    else:
        inputs = ImageInputs(load_image_processor(str(local.folder), trust_remote_code=trust_remote_code))
    # What its head does not read need not be computed.
    first_token_alone(model)
    return Classifier(model.to(default_device()).eval(), inputs, labels, bool(local.config.get("trained_on_pairs")))


def _max_length(model: PreTrainedModel, local: LocalCheckpoint) -> int:
    """Tokens at which a classifier's texts are cut off: as its tokenizer stores, and no more than it can read."""
    path = local.folder / "tokenizer_config.json"
    stored = json.loads(path.read_text(encoding="utf-8")).get("model_max_length") if path.is_file() else None
    made_for = positions_of(model) or local.config.get("max_position_embeddings")
    # A tokenizer that was saved without a limit says 1e30.
    if isinstance(stored, int) and stored <= (made_for or MOST_STORED):
        return stored
    length = made_for or UNKNOWN_LENGTH
    why = f"stores a limit of {stored}" if isinstance(stored, int) and stored <= MOST_STORED else "stores no limit"
    logger.info("%s: its tokenizer %s; texts are cut off at %d tokens", local.name, why, length)
    return length


class Scorer:
    """Class probabilities of canonical rows, part by part.

    Args:
        precision: float32; bf16; or auto: bf16 where the hardware multiplies it natively and there are rows enough to
            gain by it, with every row again in float32 whose label could be another there, see `evaluation.half`.
        batch_size: rows of a forward pass; None: as many as have `TOKENS` tokens together, or 64 pictures.
        views: see every row several times. auto is float32 then: bfloat16 is made sure of by the two best classes of
            what is computed, and those of a mean can be close where those of no view are.

    Raises:
        InputError: bf16 on a device without it, a batch of no rows, or operations that are not for what the classifier
            reads.
    """

    def __init__(
        self,
        classifier: Classifier,
        precision: Precision,
        *,
        batch_size: int | None = None,
        views: SeveralViews | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise InputError(f"--batch-size {batch_size}: expected at least 1")
        native = has_native_bf16(default_device())
        if precision == "bf16" and not native:
            raise InputError(
                f"--precision bf16: this {default_device().type} does not multiply bf16 natively; use float32"
            )
        if views is not None:
            views.check(classifier.kind)
        self.classifier, self.batch_size, self.views = classifier, batch_size, views
        self.precision = "float32" if precision == "auto" and (views is not None or not native) else precision
        self.half: HalfPrecision | None = None
        self.seconds = self.seconds_unchanged = 0.0

    def score(self, rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """The mean over each row's views, and what the rows as they are have; shapes (N, C)."""
        started = time.perf_counter()
        parts = self._of_views(rows)
        unchanged_NC = next(parts)
        self.seconds_unchanged += time.perf_counter() - started
        mean_NC = mean_of(chain([unchanged_NC], parts))
        self.seconds += time.perf_counter() - started
        return mean_NC, unchanged_NC

    @property
    def cost(self) -> float:
        """Seconds of all views over those of the rows as they are."""
        return self.seconds / self.seconds_unchanged

    def probabilities(self, rows: Dataset) -> np.ndarray:
        """Shape (N, C), of the rows as they are."""
        inputs = self.classifier.inputs
        encoded = inputs.encode_in_memory(rows) if isinstance(inputs, TextInputs) else inputs.encode(rows)
        return self._softmax(Rows(encoded, columns_of(inputs, labels=False)), inputs.lengths(encoded))

    def _of_views(self, rows: Dataset) -> Iterator[np.ndarray]:
        """Shape (N, C) for each view, the rows as they are first."""
        inputs, views = self.classifier.inputs, self.views
        if views is None:
            yield self.probabilities(rows)
        elif isinstance(inputs, TextInputs):
            yield self.probabilities(rows)
            raw = rows.to_dict()
            for view in range(1, views.number):
                yield self.probabilities(Dataset.from_dict(views.texts(raw, raw["row"], view)))
        else:
            # Decoded once for all views.
            places, pixels_NCHW = rows["row"][:], decoded(inputs, rows["image"][:])
            for view in range(views.number):
                yield self._softmax(Pictures(pixels_NCHW, places, views, view), None)

    def _softmax(self, batches: torch.utils.data.Dataset, lengths: np.ndarray | None) -> np.ndarray:
        model, collate = self.classifier.model, self.classifier.inputs.collate
        options = {"batch_size": self.batch_size, "tokens": TOKENS}
        if self.precision == "auto" and self.half is None and len(batches) < FEWEST_ROWS:
            self.precision = "float32"
        if self.precision == "float32":
            return softmax(predict_logits(model, batches, collate, lengths=lengths, **options))
        if self.half is None:
            self.half = HalfPrecision(model, collate, rescore=self.precision == "auto", **options)
        # An eighth faster than the layers one by one: fewer shapes of products are compiled.
        with nullcontext() if self.half.half is None else fused_layers(self.half.half):
            return softmax(self.half.logits(batches, lengths))

    def throughput(self, rows: int) -> dict[str, float]:
        """Of so many rows, from text or picture to label; reading and writing files is not in it."""
        return {"predict_rows_per_s": round(rows / max(self.seconds, 1e-9), 2)}

    def report(self) -> dict[str, Any]:
        """What was computed how, see `HalfPrecision.report`; each view of a row counts as one."""
        return {"format": "float32"} if self.half is None else self.half.report()


def probabilities(classifier: Classifier, rows: Dataset, *, batch_size: int | None = None) -> np.ndarray:
    """Class probabilities (N, C) of canonical rows, in float32."""
    return Scorer(classifier, "float32", batch_size=batch_size).probabilities(rows)


def predict(
    classifier: Classifier,
    source: Source,
    output: Path,
    *,
    batch_size: int | None = None,
    precision: Precision = "auto",
    views: SeveralViews | None = None,
    digests: bool = False,
) -> dict[str, Any]:
    """Label every row of `source` and write row, predicted and p:<name> per class, in the source's order.

    The source is read and the answer written a part at a time; `output` appears when it is whole. How far bfloat16 is
    from float32, where it was used, is logged, and so is what views change.

    Args:
        batch_size, precision, views: see `Scorer`.
        digests: write the column `digest` as well, see `data.splits.row_digests`, by which `answers.given` finds a row.

    Returns:
        {"rows", "throughput", "precision"}, as in `evaluate`.

    Raises:
        InputError: for an output that is not .csv, .parquet or .jsonl, or unreadable rows; `output` is not touched.
    """
    check_output(output, source.path)
    scorer = Scorer(classifier, precision, batch_size=batch_size, views=views)
    written, changed = 0, 0
    with table_writer(output, classifier.labels, digests=digests) as write, _bar("predict") as bar:
        for rows in _batches(classifier, source, require_label=False):
            found_NC, unchanged_NC = scorer.score(rows)
            keys = [[key.hex() for key in row_digests(rows.with_format("arrow")[:])]] if digests else []
            write(rows["row"][:], found_NC, *keys)
            written += len(rows)
            changed += int((found_NC.argmax(-1) != unchanged_NC.argmax(-1)).sum())
            bar.update(len(rows))
    if views is not None:
        logger.info(
            "%d views: %d of %d labels are not those of the unchanged rows; %.1f times the seconds",
            views.number,
            changed,
            written,
            scorer.cost,
        )
    if scorer.half is not None:
        report = scorer.report()
        logger.info(
            "computed in bfloat16: probabilities within %.2g of float32's on the %d rows computed in both, "
            "labels the same on %.1f%% of %d; %d rows with two close classes are given in float32",
            report["largest_probability_difference"],
            report["rows_compared"],
            100 * report["label_agreement"],
            report["rows_of_label_agreement"],
            report["rows_in_float32"],
        )
    return {"rows": written, "throughput": scorer.throughput(written), "precision": scorer.report()}


def evaluate(
    classifier: Classifier,
    source: Source,
    *,
    batch_size: int | None = None,
    resamples: int = 1000,
    precision: Precision = "auto",
    views: SeveralViews | None = None,
) -> dict[str, Any]:
    """Score labelled rows: {"rows", "metrics" with intervals, "throughput", "precision"}.

    With views these are theirs, and "views" tells what they are, what they gain and what they cost: {"number", "augment",
    "seed", "without" (the metrics of the unchanged rows), "difference" (see `evaluation.views.gain`), "cost" (seconds
    over those of the unchanged rows alone)}.

    Args:
        batch_size, views: see `Scorer`.
        precision: auto is float32 here; with bf16 the labels' agreement with float32 stands under "precision".

    Raises:
        InputError: for a row without a label, or with one that the classifier does not know.
    """
    used: Precision = "float32" if precision == "auto" else precision
    scorer = Scorer(classifier, used, batch_size=batch_size, views=views)
    labels, found, unchanged = [], [], []
    with _bar("evaluate") as bar:
        for rows in _batches(classifier, source, require_label=True):
            found_NC, unchanged_NC = scorer.score(rows)
            found.append(found_NC)
            unchanged.append(unchanged_NC)
            labels.append(np.asarray(rows["label"][:]))
            bar.update(len(rows))
    all_labels, all_found_NC = np.concatenate(labels), np.concatenate(found)
    intervals = bootstrap(all_labels, all_found_NC, resamples=resamples)
    result = {
        "rows": len(all_labels),
        "metrics": {name: interval.to_dict() for name, interval in intervals.items()},
        "throughput": scorer.throughput(len(all_labels)),
        "precision": scorer.report(),
    }
    if views is not None:
        compared = gain(all_labels, all_found_NC, np.concatenate(unchanged), resamples=resamples)
        result["views"] = {**views.to_dict(), **compared, "cost": round(scorer.cost, 2)}
    return result


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
