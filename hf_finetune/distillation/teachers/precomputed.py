"""A teacher that is a file of predictions computed elsewhere. Each row is matched by its text or its digest.

A parquet file has a column `digest`, or `text` (and `text_pair` for pairs), and one column for each class or tag:
`p:NAME` for its probability, or `logit:NAME`. That of numbers has a column `predicted`. An .npy file has logits (M, C),
and a NAME.json beside it: {"labels": [C names], "digests": [M digests]}. A folder has parquet files, or one .npy file
with its .json. The digest of a row is the SHA-256, in hexadecimal, of its text in UTF-8 or of its image file; see
`data.duplicates.row_digests` for pairs.

Legend: M predictions, R repeated predictions, N rows, C classes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from scipy.special import logit

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.config import Activation
from hf_finetune.data.duplicates import dataset_digests, first_occurrences, row_digests
from hf_finetune.data.inputs import Inputs
from hf_finetune.data.loading import Splits
from hf_finetune.distillation.cache.logits import Logits
from hf_finetune.distillation.teachers.base import class_columns
from hf_finetune.errors import InputError
from hf_finetune.evaluation.metrics import activate
from hf_finetune.utils import hashing
from hf_finetune.utils.artifacts import artifacts_in
from hf_finetune.utils.messages import counted, one_line, row_place
from hf_finetune.utils.plain import short_repr

PARQUET, NPY = ".parquet", ".npy"
PROBABILITY, LOGIT, NUMBER = "p:", "logit:", "predicted"
# Smaller probabilities count as this one, so that the logarithm is finite.
LEAST_PROBABILITY = 1e-12
# Largest difference between two probabilities of one row that needs no note.
SAME = 1e-3
# Two predictions of different classes for one row contradict each other if a probability differs by more than this.
# Rounding to float16 or bfloat16 stays below it.
CLEAR = 0.05


@dataclass(frozen=True)
class PrecomputedPredictions:
    """Predictions of the data's rows from files."""

    name: str
    """File or folder, as the user wrote it."""
    weights: str
    """SHA-256 of the files."""
    indices: dict[bytes, int]
    """Index of the prediction of each row, by the row's digest."""
    logits_MC: np.ndarray
    """Logits, or logarithms of probabilities, of the data's classes in their order."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""

    @property
    def files(self) -> dict[str, str]:
        """None: `weights` covers all of its files."""
        return {}

    def check(self, splits: Splits, student: Inputs, augment: Sequence[object], *, online: bool) -> None:
        """Refuse rows without a prediction, see `Teacher.check`.

        Raises:
            InputError: naming the first such row; or augmentation changes the rows.
        """
        if augment:
            raise InputError(
                f"data.augment: expected none beside {self.name}, which predicts only the original rows, got "
                f"{', '.join(map(short_repr, augment))}; take a classifier as teacher"
            )
        for split, rows in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
            if rows is not None:
                self.logits(rows, split)

    def predict(self, rows: Dataset | AugmentedRows, split: str, *, budget_gb: float) -> tuple[Logits, bool]:
        """Return the predictions of all rows, see `Teacher.predict`."""
        assert isinstance(rows, Dataset), "augmentation is refused"
        return self.logits(rows, split), True

    def logits(self, rows: Dataset, split: str) -> np.ndarray:
        """Return the logits of canonical rows, shape (N, C), float32.

        Raises:
            InputError: rows have no prediction, naming the first.
        """
        digests = dataset_digests(rows)
        missing = [i for i, digest in enumerate(digests) if digest not in self.indices]
        if missing:
            first = rows[missing[0]]
            content = f"text {first['text'][:40]!r}" if "text" in first else "an image"
            raise InputError(
                f"objective.teacher: expected a prediction of every row of {split}, got none from {self.name} for "
                f"{len(missing)} of the {counted(len(rows), 'row')}, the first of them {row_place(first['row'])} "
                f"({content}, digest {digests[missing[0]].hex()})"
            )
        return np.asarray(self.logits_MC[[self.indices[digest] for digest in digests]], dtype=np.float32)


def is_precomputed(name: str) -> bool:
    """Return whether a teacher's name is that of a file of predictions, or of a folder of them without a classifier."""
    path = Path(name).expanduser()
    if path.is_dir():
        return bool(_files_in(path)) and not artifacts_in(path) and not (path / "recipe.json").exists()
    return path.suffix.lower() in (PARQUET, NPY)


def _files_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in (PARQUET, NPY))


def read_precomputed(name: str, labels: Sequence[str], activation: Activation = "softmax") -> PrecomputedPredictions:
    """Read predictions from files, whose formats the docstring of this module describes.

    Args:
        name: one that `is_precomputed`.
        labels: class names of the data.
        activation: how logits become predictions.

    Raises:
        InputError: naming the file, and the row and column that is no prediction.
    """
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(f"{name}: no such file or folder; expected predictions in .parquet or .npy")
    files = _files_in(path) if path.is_dir() else [path]
    arrays = [file for file in files if file.suffix.lower() == NPY]
    if arrays and len(files) > 1:
        raise InputError(f"{name}: expected parquet files, or one .npy file, got {arrays[0].name} and other files")
    try:
        parts = (
            [_read_array(arrays[0], labels, activation)]
            if arrays
            else [_read_table(file, labels, activation) for file in files]
        )
        weights = hashing.of_files(*files, *(file.with_suffix(".json") for file in arrays))
    except OSError as error:
        raise InputError(f"{error.filename or name}: cannot be read ({error.strerror})") from None
    digests = [digest for part, _ in parts for digest in part]
    logits_MC = parts[0][1] if len(parts) == 1 else np.concatenate([logits for _, logits in parts])
    first_M = first_occurrences(digests)
    indices = {digests[i]: int(i) for i in np.unique(first_M)}
    notes = _repeat_notes(logits_MC, first_M, name, activation)
    return PrecomputedPredictions(name, weights, indices, logits_MC, notes)


def _repeat_notes(logits_MC: np.ndarray, first_M: np.ndarray, name: str, activation: Activation) -> tuple[str, ...]:
    """Note repeated predictions of a row that differ from its first one, which counts.

    Args:
        first_M: index of the first prediction of the same row.
        name: the teacher, for messages.

    Raises:
        InputError: two predictions of a row contradict each other by more than rounding.
    """
    again_R = np.flatnonzero(first_M != np.arange(len(first_M)))
    if not len(again_R):
        return ()
    p_RC, first_RC = (activate(logits_MC[rows], activation) for rows in (again_R, first_M[again_R]))
    difference_RC = np.abs(p_RC - first_RC)
    difference_R = difference_RC.max(1)
    if activation == "softmax":
        contradicts_R = (difference_R > CLEAR) & (p_RC.argmax(1) != first_RC.argmax(1))
    elif activation == "sigmoid":
        contradicts_R = ((difference_RC > CLEAR) & ((p_RC > 0.5) != (first_RC > 0.5))).any(1)
    else:
        contradicts_R = np.zeros(len(again_R), dtype=bool)
    if len(others := again_R[contradicts_R]):
        i = others[0]
        raise InputError(f"{name}: rows {first_M[i]} and {i} counted from 0 predict one row, and not alike; keep one")
    if (largest := float(difference_R.max())) <= SAME:
        return ()
    noun = "numbers" if activation == "identity" else "probabilities"
    return (
        f"{name}: {len(again_R)} predictions repeat a row, with {noun} that differ by up to {largest:.2g} from its "
        "first prediction; the first one counts",
    )


def _read_array(path: Path, labels: Sequence[str], activation: Activation) -> tuple[list[bytes], np.ndarray]:
    """Read digests and logits from an .npy file and the .json beside it."""
    beside, expected = path.with_suffix(".json"), '{"labels": [...], "digests": [...]}'
    try:
        about = json.loads(beside.read_text(encoding="utf-8"))
        names, digests = [str(label) for label in about["labels"]], [bytes.fromhex(d) for d in about["digests"]]
        logits_MC = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such file; expected {expected} beside the logits") from None
    # numpy reads the header of an array as Python.
    except (ValueError, KeyError, TypeError, EOFError, OSError, RecursionError, SyntaxError, TokenError) as error:
        raise InputError(
            f"{path}: cannot be read with {beside.name} ({type(error).__name__}: {one_line(error)}); expected an array "
            f"of numbers, and {expected} with hexadecimal digests"
        ) from None
    if logits_MC.shape != (len(digests), len(names)) or logits_MC.dtype.kind != "f":
        raise InputError(
            f"{path}: expected floats of the shape ({len(digests)}, {len(names)}), by the digests and labels of "
            f"{beside.name}, got {logits_MC.dtype} {logits_MC.shape}"
        )
    _check_values(np.isfinite(logits_MC), path, names, logits_MC, "a finite number")
    return digests, logits_MC[:, list(class_columns(labels, names, activation, owner=str(path)))]


def _read_table(path: Path, labels: Sequence[str], activation: Activation) -> tuple[list[bytes], np.ndarray]:
    """Read digests and logits from a parquet file."""
    try:
        table = pq.read_table(path)
        table.validate(full=True)  # text that is not UTF-8 is only found where it is used
        names = table.column_names
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({one_line(error)}); write it again") from None
    if activation == "identity":
        prefix, columns = "", [NUMBER] if len(labels) == 1 else [f"{NUMBER}:{name}" for name in labels]
        if absent := [column for column in columns if column not in names]:
            raise InputError(f"{path}: expected a column {absent[0]!r} of numbers, got {', '.join(names[:12])}")
        columns_C = list(range(len(labels)))
    else:
        prefix, columns, columns_C = _class_columns(path, names, labels)
    try:
        with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, and is refused as such
            values_MC = np.stack([table[name].to_numpy().astype(np.float32) for name in columns], axis=1)
    except (ValueError, TypeError):
        raise InputError(f"{path}: expected numbers in the columns {prefix + 'NAME' if prefix else NUMBER}") from None
    _check_values(np.isfinite(values_MC), path, columns, values_MC, "a finite number")
    if prefix == PROBABILITY:
        values_MC = _logits_of(values_MC, path, columns, activation)
    return _digests(table, path), values_MC[:, columns_C]


def _class_columns(path: Path, names: Sequence[str], labels: Sequence[str]) -> tuple[str, list[str], list[int]]:
    """Return the prefix of a table's columns of classes, these columns, and the index of each of the data's classes."""
    prefixes = [prefix for prefix in (LOGIT, PROBABILITY) if any(n.startswith(prefix) for n in names)]
    if len(prefixes) != 1:
        raise InputError(
            f"{path}: expected a column of each class, all p:NAME or all logit:NAME, got {', '.join(names[:12])}"
        )
    columns = [name for name in names if name.startswith(prefixes[0])]
    indices = class_columns(labels, [name.removeprefix(prefixes[0]) for name in columns], owner=str(path))
    return prefixes[0], columns, list(indices)


def _logits_of(p_MC: np.ndarray, path: Path, columns: Sequence[str], activation: Activation) -> np.ndarray:
    """Return the logarithms of probabilities of classes, or the log odds of tags."""
    _check_values((p_MC >= 0) & (p_MC <= 1), path, columns, p_MC, "a probability")
    if activation == "sigmoid":
        p_MC = np.clip(p_MC.astype(np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        return logit(p_MC).astype(np.float32)
    totals_M = p_MC.sum(axis=1)
    if len(uneven := np.flatnonzero(np.abs(totals_M - 1) > 0.01)):
        raise InputError(
            f"{path}, {row_place(uneven[0])}: expected columns p:NAME with a sum of 1, got "
            f"{float(totals_M[uneven[0]]):.4g}; columns logit:NAME may hold any numbers"
        )
    return np.log(np.maximum(p_MC, LEAST_PROBABILITY))


def _check_values(
    is_valid_MC: np.ndarray, path: Path, columns: Sequence[str], values_MC: np.ndarray, expected: str
) -> None:
    if not is_valid_MC.all():
        row, column = np.argwhere(~is_valid_MC)[0]
        value = values_MC[row, column]
        raise InputError(f"{path}, {row_place(row)}, column {columns[column]!r}: expected {expected}, got {value}")


def _digests(table: pa.Table, path: Path) -> list[bytes]:
    """Return the digest of the row that each row of a parquet file predicts."""
    names = table.column_names
    if "digest" in names:
        try:
            return [bytes.fromhex(digest) for digest in table["digest"].to_pylist()]
        except (ValueError, TypeError):
            raise InputError(f"{path}, column 'digest': expected hexadecimal digits") from None
    if "text" not in names:
        raise InputError(
            f"{path}: expected a column 'digest' or 'text' by which rows are matched, got neither (row numbers would "
            "also fit other data); write it by `hf-finetune predict --digests`"
        )
    texts = table.select([name for name in ("text", "text_pair") if name in names])
    for name in texts.column_names:
        for row, text in enumerate(texts[name].to_pylist()):
            if not isinstance(text, str):
                raise InputError(f"{path}, {row_place(row)}, column {name!r}: expected text, got {text!r}")
    return row_digests(texts)
