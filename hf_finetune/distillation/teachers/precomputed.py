"""Teacher predictions that were computed elsewhere, in files: each row's is matched by its text, or by the digest of
what it is.

A parquet file has a column `digest`, or `text` (for pairs `text_pair`, too), and one for each class: `p:NAME`, its
probability, or `logit:NAME`. An .npy file has logits (M, C), and beside it NAME.json says whose they are: {"labels": [C
names], "digests": [M digests]}. A folder holds parquet files, or one .npy file with its .json. The digest of a row is
the SHA-256, in hexadecimal, of its text in UTF-8, or of the bytes of the image's file; see
`data.duplicates.row_digests` for pairs.

Legend: M predictions, R of them of a row that was predicted before, N rows, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.duplicates import first_occurrences, row_digests
from hf_finetune.data.inputs import Inputs
from hf_finetune.data.loading import Splits
from hf_finetune.distillation.cache.logits import Logits
from hf_finetune.distillation.teachers.base import class_columns
from hf_finetune.errors import InputError
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.utils import hashing
from hf_finetune.utils.artifacts import artifacts_in
from hf_finetune.utils.messages import one_line
from hf_finetune.utils.plain import short_repr

SUFFIXES = (".parquet", ".npy")
PROBABILITY, LOGIT = "p:", "logit:"
# A probability counts as no less: its logarithm must be a number.
LEAST_PROBABILITY = 1e-12
# Probabilities of one row may differ by so much without a word.
SAME = 1e-3
# Two predictions of one row name two classes when the leads of these, one over the other, add up to more than this
# probability. Half precision does less: rows of one text that float16 rounded, or in bfloat16 and in float32.
CLEAR = 0.1


@dataclass(frozen=True)
class PrecomputedPredictions:
    """Somebody's predictions of rows of the data."""

    name: str
    """File or folder, as the user wrote it."""
    weights: str
    """SHA-256 of the files."""
    places: dict[bytes, int]
    """Where the prediction of the row of each digest stands."""
    logits_MC: np.ndarray
    """Logits, or logarithms of probabilities, of the data's classes in their order."""
    notes: tuple[str, ...] = ()
    """What its user should know."""

    def check(self, splits: Splits, student: Inputs, augment: Sequence[object], *, online: bool) -> None:
        """Refuse rows that it has no prediction of, see `Teacher.check`.

        Raises:
            InputError: naming the first of them; or the rows are changed before they train.
        """
        if augment:
            raise InputError(
                f"data.augment: expected none beside {self.name}, which predicts the rows as they are, got "
                f"{', '.join(map(short_repr, augment))}; take a classifier as teacher"
            )
        for split, rows in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
            if rows is not None:
                self.logits(rows, split)

    def predict(self, rows: Dataset | AugmentedRows, split: str, *, budget_gb: float) -> tuple[Logits, bool]:
        """Return the predictions of all rows, which were there before, see `Teacher.predict`."""
        assert isinstance(rows, Dataset), "the predictions are of the rows as they are"
        return self.logits(rows, split), True

    def logits(self, rows: Dataset, split: str) -> np.ndarray:
        """Return the logits of canonical rows, shape (N, C), float32.

        Raises:
            InputError: there are none of some rows, naming the first.
        """
        digests = row_digests(rows.with_format("arrow")[:])
        missing = [i for i, digest in enumerate(digests) if digest not in self.places]
        if missing:
            first = missing[0]
            raise InputError(
                f"objective.teacher: {self.name} has no prediction of {len(missing)} of the {len(rows)} rows of "
                f"{split}, the first of them row {rows[first]['row']} ({_excerpt(rows, first)}, digest "
                f"{digests[first].hex()}); expected one of every row that trains, chooses or judges"
            )
        return np.asarray(self.logits_MC[[self.places[digest] for digest in digests]], dtype=np.float32)


def _excerpt(rows: Dataset, row: int) -> str:
    if "text" not in rows.column_names:
        return "an image"
    text = rows[row]["text"]
    return f"text {text[:40] + '...' if len(text) > 40 else text!r}"


def is_precomputed(name: str) -> bool:
    """Whether a teacher's name is that of predictions: such a file, or a folder of them that holds no classifier."""
    path = Path(name).expanduser()
    if path.is_dir():
        return bool(_files_in(path)) and not artifacts_in(path) and not (path / "recipe.json").exists()
    return path.suffix.lower() in SUFFIXES


def _files_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def read_precomputed(name: str, labels: Sequence[str]) -> PrecomputedPredictions:
    """Read predictions from files, see the head of this module.

    Args:
        name: for which `is_precomputed` holds.
        labels: names of the data's classes.

    Raises:
        InputError: naming file, row and column, for what is no prediction.
    """
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(f"objective.teacher: {name}: no such file or folder; expected predictions in .parquet or .npy")
    files = _files_in(path) if path.is_dir() else [path]
    kinds = {file.suffix.lower() for file in files}
    if len(kinds) > 1 or (kinds == {".npy"} and len(files) > 1):
        raise InputError(
            f"objective.teacher: {name}: expected parquet files, or one .npy file, got {files[0].name} and more"
        )
    arrays = [file for file in files if file.suffix.lower() == ".npy"]
    try:
        parts = [_read_array(file, labels) if file in arrays else _read_table(file, labels) for file in files]
        weights = hashing.of_files(*files, *(file.with_suffix(".json") for file in arrays))
    except OSError as error:
        raise InputError(f"objective.teacher: {error.filename or name}: cannot be read ({error.strerror})") from None
    digests = [digest for part, _ in parts for digest in part]
    logits_MC = parts[0][1] if len(parts) == 1 else np.concatenate([logits for _, logits in parts])
    first_M = first_occurrences(digests)
    places = {digests[i]: int(i) for i in np.unique(first_M)}
    return PrecomputedPredictions(name, weights, places, logits_MC, _repeat_notes(logits_MC, first_M, name))


def _repeat_notes(logits_MC: np.ndarray, first_M: np.ndarray, name: str) -> tuple[str, ...]:
    """Note rows that are predicted more than once, and not quite alike: the first prediction counts.

    Args:
        first_M: see `first_occurrences`.
        name: for the messages.

    Raises:
        InputError: two predictions of a row name two classes, by more than rounding.
    """
    again_R = np.flatnonzero(first_M != np.arange(len(first_M)))
    if not len(again_R):
        return ()
    p_RC, first_RC = softmax(logits_MC[again_R]), softmax(logits_MC[first_M[again_R]])
    rows, best_R, first_best_R = np.arange(len(again_R)), p_RC.argmax(1), first_RC.argmax(1)
    leads_R = (p_RC[rows, best_R] - p_RC[rows, first_best_R]) + (first_RC[rows, first_best_R] - first_RC[rows, best_R])
    if len(contradictions := np.flatnonzero(leads_R > CLEAR)):
        i = again_R[contradictions[0]]
        raise InputError(
            f"objective.teacher: {name}: rows {first_M[i] + 1} and {i + 1} predict one row, and not alike; keep one"
        )
    furthest = float(np.abs(p_RC - first_RC).max())
    if furthest <= SAME:
        return ()
    return (
        f"{name}: {len(again_R)} predictions are of rows that were predicted before, with probabilities that differ by "
        f"up to {furthest:.2g}; the first prediction counts",
    )


def _read_array(path: Path, labels: Sequence[str]) -> tuple[list[bytes], np.ndarray]:
    """Read digests and logits of an .npy file and the .json beside it."""
    beside = path.with_suffix(".json")
    try:
        about = json.loads(beside.read_text(encoding="utf-8"))
        names, digests = [str(label) for label in about["labels"]], [bytes.fromhex(d) for d in about["digests"]]
        logits_MC = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(
            f"objective.teacher: {error.filename}: no such file; expected "
            '{"labels": [...], "digests": [...]} beside the logits'
        ) from None
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise InputError(
            f"objective.teacher: {path}: cannot be read with {beside.name} "
            f"({type(error).__name__}: {one_line(error)}); expected "
            'an array of numbers, and {"labels": [...], "digests": [...]} in hexadecimal'
        ) from None
    if logits_MC.shape != (len(digests), len(names)) or logits_MC.dtype.kind != "f":
        raise InputError(
            f"objective.teacher: {path}: expected floats of the shape ({len(digests)}, {len(names)}), as {beside.name} "
            f"has digests and labels, got {logits_MC.dtype} {logits_MC.shape}"
        )
    _check_values(np.isfinite(logits_MC), path, names, logits_MC, "a finite number")
    return digests, logits_MC[:, list(class_columns(labels, names, owner=str(path)))]


def _read_table(path: Path, labels: Sequence[str]) -> tuple[list[bytes], np.ndarray]:
    """Read digests and logits of a parquet file."""
    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise InputError(
            f"objective.teacher: {path}: not a readable parquet file ({one_line(error)}); write it again"
        ) from None
    prefix, columns = _class_columns_in(table, path)
    columns_C = class_columns(labels, [name.removeprefix(prefix) for name in columns], owner=str(path))
    try:
        values_MC = np.stack([table[name].to_numpy().astype(np.float32) for name in columns], axis=1)
    except (ValueError, TypeError):
        raise InputError(f"objective.teacher: {path}: a column {prefix}NAME does not hold numbers") from None
    _check_values(np.isfinite(values_MC), path, columns, values_MC, "a finite number")
    if prefix == PROBABILITY:
        values_MC = _log_probabilities(values_MC, path, columns)
    return _digests(table, path), values_MC[:, list(columns_C)]


def _class_columns_in(table: pa.Table, path: Path) -> tuple[str, list[str]]:
    """Return the prefix of the columns of classes, and their names."""
    prefixes = [prefix for prefix in (LOGIT, PROBABILITY) if any(n.startswith(prefix) for n in table.column_names)]
    match prefixes:
        case [prefix]:
            return prefix, [name for name in table.column_names if name.startswith(prefix)]
        case []:
            raise InputError(
                f"objective.teacher: {path}: no column p:NAME or logit:NAME of a class; it has "
                f"{', '.join(table.column_names[:12])}"
            )
        case _:
            raise InputError(f"objective.teacher: {path}: has columns logit:NAME and p:NAME; keep those of one kind")


def _log_probabilities(p_MC: np.ndarray, path: Path, columns: Sequence[str]) -> np.ndarray:
    _check_values((p_MC >= 0) & (p_MC <= 1), path, columns, p_MC, "a probability")
    totals_M = p_MC.sum(axis=1)
    uneven = np.flatnonzero(np.abs(totals_M - 1) > 0.01)
    if len(uneven):
        raise InputError(
            f"objective.teacher: {path}, row {uneven[0] + 1}: the columns p:NAME add up to "
            f"{float(totals_M[uneven[0]]):.4g}, expected 1; columns logit:NAME may hold any numbers"
        )
    return np.log(np.maximum(p_MC, LEAST_PROBABILITY))


def _check_values(
    is_right_MC: np.ndarray, path: Path, columns: Sequence[str], values_MC: np.ndarray, expected: str
) -> None:
    if not is_right_MC.all():
        row, column = np.argwhere(~is_right_MC)[0]
        raise InputError(
            f"objective.teacher: {path}, row {row + 1}, column {columns[column]!r}: expected {expected}, got "
            f"{values_MC[row, column]}"
        )


def _digests(table: pa.Table, path: Path) -> list[bytes]:
    """Return the digest of the row that each row of a parquet file predicts."""
    names = table.column_names
    if "digest" in names:
        try:
            return [bytes.fromhex(digest) for digest in table["digest"].to_pylist()]
        except (ValueError, TypeError):
            raise InputError(
                f"objective.teacher: {path}: column 'digest' does not hold hexadecimal digits alone"
            ) from None
    if "text" not in names:
        raise InputError(
            f"objective.teacher: {path}: no column 'digest' or 'text' says whose predictions these are; row numbers "
            "are not looked at, as other data have them too: write it by `hf-finetune predict --digests`"
        )
    texts = table.select([name for name in ("text", "text_pair") if name in names])
    for name in texts.column_names:
        if not pa.types.is_string(texts[name].type) and not pa.types.is_large_string(texts[name].type):
            raise InputError(f"objective.teacher: {path}: column {name!r} holds {texts[name].type}, expected text")
        if texts[name].null_count:
            row = texts[name].is_null().to_pylist().index(True)
            raise InputError(f"objective.teacher: {path}, row {row + 1}, column {name!r}: expected text, got nothing")
    return row_digests(texts)
