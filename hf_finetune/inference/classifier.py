"""`Classifier`: a finished classifier in Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from hf_finetune.augmentation.test_time import BOTH_STRANDS
from hf_finetune.compression.config import (
    QUANTIZATION_OPTIONS,
    ExportFormatName,
    ExportOptions,
    Numbers,
    QuantizationOptions,
)
from hf_finetune.compression.export import Exported
from hf_finetune.config.compress import Compress
from hf_finetune.data import provenance
from hf_finetune.data.config import DEFAULT_LIMITS, DataLimits
from hf_finetune.data.inputs import Rows, columns_of
from hf_finetune.data.ragged import Ragged, join
from hf_finetune.data.word_inputs import by_row
from hf_finetune.errors import InputError
from hf_finetune.inference.compressing.report import Compressed
from hf_finetune.inference.compressing.run import compress
from hf_finetune.inference.evaluation import evaluate
from hf_finetune.inference.exporting import export
from hf_finetune.inference.python_inputs import is_single, noting_texts, rows_of, source_of, source_or_own
from hf_finetune.inference.result import Result
from hf_finetune.inference.saved_classifier import SavedClassifier
from hf_finetune.inference.scoring import AnyScorer, Precision, scorer_of
from hf_finetune.inference.session import python_session
from hf_finetune.models.exported_network import ExportedNetwork
from hf_finetune.models.modules import classification_layers
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.training.warm_start import NotOfRows, head_features
from hf_finetune.utils.core_sharing import shared_cores


class Classifier(SavedClassifier):
    """A finished classifier: of `train`, of a run's folder, or of a repository on the Hub.

    Inputs are a single text or image, a list or generator of them, a table, or files:

    - texts, lists of words, pairs of texts `(first, second)`, images of Pillow, paths of images, arrays of uint8,
      (H, W, 3) or (H, W)
    - a pandas or polars DataFrame, a Dataset or DatasetDict, a mapping of columns
    - `Path("new.csv")`, or a folder, as `hf-finetune predict` reads them

    A generator is read part by part, so that its rows need not fit into the memory.

    Attributes:
        labels: class names, in the order of the probabilities.
        result: what the run measured. None: the model is of no run.
        folder: where its files are.

    Examples:
        >>> clf = Classifier.load("runs/reviews")
        >>> clf.labels
        ('bad', 'good')
        >>> clf
        Classifier('runs/reviews', texts, 2 labels: bad, good)
        >>> clf.predict(["works as it should", "broke after a day"]).shape
        (2,)
    """

    def predict(
        self,
        inputs: Any,
        *,
        text: str | None = None,
        text_pair: str | None = None,
        image: str | None = None,
        batch_size: int | None = None,
        precision: Precision = "auto",
        reverse_complement: bool = False,
        limits: DataLimits = DEFAULT_LIMITS,
    ) -> Any:
        """Return the label of each input: the name of its class, a list of its tags, or a number.

        Args:
            inputs: see the class.
            text, text_pair, image: columns of a table. None: those that the run was trained on, else the obvious ones.
            batch_size, precision, reverse_complement: see `predict_proba`. auto computes large inputs in bf16 where the
                hardware supports it natively, and repeats in float32 the rows whose label could differ.
            limits: limits on the inputs, `DataLimits(text_characters=2_000_000)`.

        Returns:
            An array of N names or numbers, shape (N, T) for T targets; or a list of N lists of tags. For a single text
            or image its own.
            Of tags of words: for a text a list of {start, end, label, text, score}, of its entities, or of all words
            where the tags mark none; for a list of words, or a row of a table, the list of their tags.

        Examples:
            >>> clf.predict("works as it should") in clf.labels
            True
            >>> clf.predict(frame)[:2].tolist() == clf.predict(frame["review"][:2]).tolist()
            True

        Raises:
            InputError: an input is empty or damaged, with its row; or a column is missing.
        """
        columns = {"text": text, "text_pair": text_pair, "image": image}
        task, predicted, of_text = self._trained.task, list[Any](), list[bool]()
        scorer = self._scorer(precision, batch_size, reverse_complement=reverse_complement)
        for rows, scores_NC in self._scored(noting_texts(inputs, of_text), columns, limits, scorer):
            part = of_text[len(predicted) : len(predicted) + len(rows)] or [False] * len(rows)
            predicted += task.answers(rows, scores_NC, part)
        if is_single(self._trained, inputs):
            return predicted[0]
        # Lists of tags stay lists; those of numbers have one length.
        has_tags = self._trained.task.predicted_type.equals(pa.list_(pa.string()))
        return predicted if has_tags else np.asarray(predicted)

    def predict_proba(
        self,
        inputs: Any,
        *,
        text: str | None = None,
        text_pair: str | None = None,
        image: str | None = None,
        batch_size: int | None = None,
        precision: Precision = "float32",
        reverse_complement: bool = False,
        limits: DataLimits = DEFAULT_LIMITS,
    ) -> Any:
        """Return the probability of each class or tag; of a model of numbers the numbers.

        Args:
            inputs, text, text_pair, image: see `predict`.
            batch_size: rows of a forward pass. None: as many as have 2048 tokens in total, or 64 images.
            precision: float32, or bf16 where the hardware supports it natively.
            reverse_complement: average over both strands of DNA or RNA.
            limits: see `predict`.

        Returns:
            Shape (N, C), float32, in the order of `labels`; shape (C,) for a single text or image. Of tags of words, a
            list of N arrays (W, C).

        Examples:
            >>> clf.predict_proba(["works as it should", "broke after a day"]).sum(axis=1).round(3).tolist()
            [1.0, 1.0]

        Raises:
            InputError: see `predict`.
        """
        columns = {"text": text, "text_pair": text_pair, "image": image}
        scorer = self._scorer(precision, batch_size, reverse_complement=reverse_complement)
        scored = self._scored(inputs, columns, limits, scorer)
        parts = [scores_NC for _, scores_NC in scored] or [self._trained.task.empty_scores()]
        scores_NC = join(parts)
        if is_single(self._trained, inputs):
            return scores_NC[0].astype(np.float32)
        if isinstance(scores_NC, Ragged):
            return [scores_C.astype(np.float32) for scores_C in scores_NC]
        return scores_NC.astype(np.float32)

    def evaluate(
        self,
        data: Any,
        *,
        text: str | None = None,
        text_pair: str | None = None,
        image: str | None = None,
        label: str | Sequence[str] | None = None,
        split: str | None = None,
        drop_bad_rows: bool = False,
        batch_size: int | None = None,
        extra: Sequence[str] = (),
        reverse_complement: bool = False,
        limits: DataLimits = DEFAULT_LIMITS,
    ) -> Result:
        """Score labeled rows.

        Args:
            data: a table as for `train`, a tuple of inputs and labels, a path, or a Hub id.
            text, text_pair, image, label: columns; of tags or targets, label is a list of them. None: those that the
                run was trained on, else the obvious ones.
            split: split of the data. None: test, else validation, else train.
            drop_bad_rows: leave out rows that cannot be used; `result["dropped"]` counts them.
            batch_size, reverse_complement: see `predict_proba`.
            extra: further metrics, as `evaluate.extra` of a recipe: local, installed or cached `evaluate` modules.
            limits: see `predict`.

        Examples:
            >>> result = clf.evaluate((["works as it should", "broke after a day"], ["good", "bad"]))
            >>> result.metric("accuracy").n
            2

        Raises:
            InputError: a row without a label, or with one that the classifier does not know; a metric that cannot be
                used; or see `predict`.
        """
        columns = {"text": text, "text_pair": text_pair, "image": image, "label": label}
        with python_session(), source_of(data, columns, limits, kind=self._trained.kind, split=split) as source:
            source = replace(source, drop_bad_rows=drop_bad_rows)
            leaked = provenance.trained_on(str(self.folder))
            views = BOTH_STRANDS if reverse_complement else None
            options: dict[str, Any] = {"batch_size": batch_size, "trained_on": leaked, "extra": extra, "views": views}
            report = evaluate(self._trained, source, **options)
        name = split or "evaluation"
        task = self._trained.task
        document = {"name": Path(self._trained.name).name, "labels": list(self.labels), **report}
        document |= {"problem_type": task.problem_type, "label_task": task.name}
        document |= {"rows": {name: report["rows"]}, "metrics": {name: report["metrics"]}}
        return Result({**document, **{part: {name: report[part]} for part in ("per_class", "per_target")}})

    def embed(
        self,
        inputs: Any,
        *,
        text: str | None = None,
        text_pair: str | None = None,
        image: str | None = None,
        limits: DataLimits = DEFAULT_LIMITS,
    ) -> Any:
        """Return the features that the classification layer reads.

        Args:
            inputs, text, text_pair, image, limits: see `predict`.

        Returns:
            Shape (N, D), float32; shape (D,) for a single text or image. Of tags of words, a list of N arrays (W, D).

        Examples:
            >>> clf.embed(["works as it should", "broke after a day"]).shape
            (2, 32)

        Raises:
            InputError: the classification layer reads tokens, not rows; or see `predict`.
        """
        if not isinstance(self._trained, TrainedModel) or isinstance(self._trained.model, ExportedNetwork):
            what = "exported graph" if isinstance(self._trained, TrainedModel) else "pipeline of scikit-learn"
            raise InputError(f"{self._trained.name}: a {what} has no layer whose features are embeddings")
        model, model_inputs = self._trained.model, self._trained.inputs
        layers, parts, columns = classification_layers(model)[:1], list[Any](), columns_of(model_inputs, labels=False)
        with python_session():
            named = {"text": text, "text_pair": text_pair, "image": image}
            for rows in rows_of(self._trained, inputs, named, limits):
                encoded = model_inputs.encode_in_memory(rows)
                try:
                    features = head_features(model, layers, Rows(encoded, columns), model_inputs.collate)[0]
                except NotOfRows:
                    raise InputError(f"{self._trained.name}: its classification layer reads tokens, not rows") from None
                parts.append(by_row(encoded, features))
        features_ND = join(parts) if parts else np.empty((0, layers[0].in_features), np.float32)
        if is_single(self._trained, inputs):
            return features_ND[0]
        return list(features_ND) if isinstance(features_ND, Ragged) else features_ND

    def export(
        self,
        folder: str | Path | None = None,
        *,
        data: Any = None,
        text: str | None = None,
        text_pair: str | None = None,
        image: str | None = None,
        label: str | Sequence[str] | None = None,
        format: ExportFormatName = "onnx",
        weights: Numbers | tuple[Numbers, QuantizationOptions] = "float32",
        rows: int | None = None,
        max_loss: float = 0.5,
        latency: bool = True,
    ) -> Exported:
        """Write the classifier for another program, with its tokenizer or image processor, and verify it.

        `Exported.write_dockerfile` adds a Dockerfile.

        Args:
            folder: None: see `ExportOptions.folder`, in the folder of the run.
            data, text, text_pair, image, label: rows to compare with, see `evaluate`. None: the data of the run.
            format, weights, rows, max_loss, latency: see `ExportOptions`; weights with its `quantization`, or alone.

        Examples:
            >>> exported = clf.export("onnx", data=frame, latency=False)
            >>> Classifier.load("onnx").predict("works as it should") == clf.predict("works as it should")
            True

        Raises:
            InputError, GateError: see `compression.export.export_rows`.
        """
        columns = {"text": text, "text_pair": text_pair, "image": image, "label": label}
        numbers, quantization = weights if isinstance(weights, tuple) else (weights, QUANTIZATION_OPTIONS)
        options = ExportOptions(format, numbers, rows, max_loss, latency, quantization=quantization)
        output = None if folder is None else Path(folder).expanduser()
        with python_session(), source_or_own(data, columns, kind=self._trained.kind) as source:
            return export(self._trained, source, output, options)

    def compress(
        self,
        folder: str | Path | None = None,
        *,
        data: Any = None,
        text: str | None = None,
        text_pair: str | None = None,
        image: str | None = None,
        label: str | Sequence[str] | None = None,
        resume: bool = False,
        **fields: Any,
    ) -> Compressed:
        """Prune and quantize the classifier, and write the fastest candidate within the limits.

        Args:
            folder: None: compressed/ in the folder of the run.
            data: labeled rows, which are split as those of the run. None: the data of the run.
            text, text_pair, image, label: columns of the data, see `evaluate`.
            resume: go on with an unfinished compression in the folder.
            fields: those of `Compress`, by name: `max_loss`, `latency`, `max_size`, `steps`, `budget` and `rows`.

        Examples:
            >>> compressed = clf.compress(data=frame, max_loss=1.0)  # doctest: +SKIP
            >>> Classifier.load(compressed.folder)  # doctest: +SKIP
            >>> clf.compress(max_los=1.0)
            Traceback (most recent call last):
            hf_finetune.errors.InputError: Compress.max_los: no such field, did you mean 'max_loss'?

        Raises:
            InputError, GateError: see `compressing.run.compress`.
        """
        columns = {"text": text, "text_pair": text_pair, "image": image, "label": label}
        options = Compress(**fields)
        output = None if folder is None else Path(folder).expanduser()
        with python_session(), source_or_own(data, columns, kind=self._trained.kind) as source:
            return compress(self._trained, source, output, options, resume=resume)

    def _scorer(self, precision: Precision, batch_size: int | None, *, reverse_complement: bool) -> AnyScorer:
        with python_session():
            views = BOTH_STRANDS if reverse_complement else None
            return scorer_of(self._trained, precision, batch_size=batch_size, views=views)

    def _scored(
        self, inputs: Any, columns: dict[str, str | None], limits: DataLimits, scorer: AnyScorer
    ) -> Iterator[tuple[Dataset, Any]]:
        """Yield canonical rows with their scores, see `Scorer.score`, a part at a time."""
        with shared_cores(), python_session():
            for rows in rows_of(self._trained, inputs, columns, limits):
                yield rows, scorer.score(rows)[0]
