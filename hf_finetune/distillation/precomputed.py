"""Answers that were computed elsewhere, in files: each row's is found by its text, or by the digest of what it is.

A parquet file has a column `digest`, or `text` (for pairs `text_pair`, too), and one for each class: `p:NAME`, its
probability, or `logit:NAME`. An .npy file has logits (M, C), and beside it NAME.json says whose they are: {"labels":
[C names], "digests": [M digests]}. A folder holds parquet files, or one .npy file with its .json. The digest of a row is the
SHA-256, in hexadecimal, of its text in UTF-8, or of the bytes of the picture's file; see `data.duplicates.row_digests` for pairs.

Legend: M answers, R of them to a row that was answered before, N rows, C classes.
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

from hf_finetune.data.duplicates import first_occurrences, row_digests
from hf_finetune.distillation.classes import places_of
from hf_finetune.errors import InputError
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.utils import hashing
from hf_finetune.utils.artifacts import artefacts_in

SUFFIXES = (".parquet", ".npy")
PROBABILITY, LOGIT = "p:", "logit:"
# A probability counts as no less: its logarithm must be a number.
LEAST = 1e-12
# Probabilities of one row may differ by so much without a word.
SAME = 1e-3
# Two answers to one row name two classes when the leads of these, one over the other, add up to more than this probability.
# Half precision does less: rows of one text that float16 rounded, or that were computed in bfloat16 and in float32.
CLEAR = 0.1


@dataclass(frozen=True)
class Given:
    """Somebody's answers to rows of the data."""

    name: str
    """File or folder, as the user wrote it."""
    weights: str
    """SHA-256 of the files."""
    places: dict[bytes, int]
    """Where the answer to the row of each digest stands."""
    logits_MC: np.ndarray
    """Logits, or logarithms of probabilities, of the data's classes in their order."""
    notes: tuple[str, ...] = ()
    """What its user should know."""

    def of(self, rows: Dataset, split: str) -> np.ndarray:
        """The answers to canonical rows, shape (N, C), float32.

        Raises:
            InputError: there is none to some of them, naming the first.
        """
        wanted = row_digests(rows.with_format("arrow")[:])
        missing = [i for i, digest in enumerate(wanted) if digest not in self.places]
        if missing:
            raise InputError(
                f"objective.teacher: {self.name} has no answer to {len(missing)} of the {len(rows)} rows of {split}, the first "
                f"of them row {rows[missing[0]]['row']} ({_shown(rows, missing[0])}, digest {wanted[missing[0]].hex()}); "
                "expected one to every row that trains, chooses or judges"
            )
        return np.asarray(self.logits_MC[[self.places[digest] for digest in wanted]], dtype=np.float32)


def _shown(rows: Dataset, row: int) -> str:
    if "text" not in rows.column_names:
        return "a picture"
    text = rows[row]["text"]
    return f"text {text[:40] + '...' if len(text) > 40 else text!r}"


def is_given(name: str) -> bool:
    """Whether a teacher's name is that of answers: such a file, or a folder of them that holds no classifier."""
    path = Path(name).expanduser()
    if path.is_dir():
        return bool(_files_in(path)) and not artefacts_in(path) and not (path / "recipe.json").exists()
    return path.suffix.lower() in SUFFIXES


def _files_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def read_given(name: str, labels: Sequence[str]) -> Given:
    """Answers from files, see the head of this module.

    Args:
        name: for which `is_given` holds.
        labels: names of the data's classes.

    Raises:
        InputError: naming file, row and column, for what is no answer.
    """
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(f"objective.teacher: {name}: no such file or folder; expected answers in .parquet or .npy")
    files = _files_in(path) if path.is_dir() else [path]
    kinds = {file.suffix.lower() for file in files}
    if len(kinds) > 1 or (kinds == {".npy"} and len(files) > 1):
        raise InputError(
            f"objective.teacher: {name}: expected parquet files, or one .npy file, got {files[0].name} and more"
        )
    try:
        parts = [_of_array(f, labels) if f.suffix.lower() == ".npy" else _of_table(f, labels) for f in files]
        # An array's classes and rows are told by the file beside it.
        weights = hashing.of_files(*files, *(f.with_suffix(".json") for f in files if f.suffix.lower() == ".npy"))
    except OSError as error:
        raise InputError(f"objective.teacher: {error.filename or name}: cannot be read ({error.strerror})") from None
    keys = [digest for found, _ in parts for digest in found]
    logits_MC = parts[0][1] if len(parts) == 1 else np.concatenate([logits for _, logits in parts])
    first_M = first_occurrences(keys)
    notes = _of_repeated(logits_MC, first_M, name)
    return Given(name, weights, {keys[i]: int(i) for i in np.unique(first_M)}, logits_MC, notes)


def _of_repeated(logits_MC: np.ndarray, first_M: np.ndarray, name: str) -> tuple[str, ...]:
    """A note where a row is answered more than once, and not quite alike: the first answer counts.

    Args:
        first_M: see `first_occurrences`.
        name: for the messages.

    Raises:
        InputError: two answers to a row name two classes, by more than rounding.
    """
    again = np.flatnonzero(first_M != np.arange(len(first_M)))
    if not len(again):
        return ()
    p_RC, first_RC = softmax(logits_MC[again]), softmax(logits_MC[first_M[again]])
    rows, best_R, first_best_R = np.arange(len(again)), p_RC.argmax(1), first_RC.argmax(1)
    leads_R = (p_RC[rows, best_R] - p_RC[rows, first_best_R]) + (first_RC[rows, first_best_R] - first_RC[rows, best_R])
    if len(apart := np.flatnonzero(leads_R > CLEAR)):
        i = again[apart[0]]
        raise InputError(
            f"objective.teacher: {name}: rows {first_M[i] + 1} and {i + 1} answer the same row, and not alike; keep one"
        )
    furthest = float(np.abs(p_RC - first_RC).max())
    if furthest <= SAME:
        return ()
    return (
        f"{name}: {len(again)} answers are to rows that were answered before, with probabilities that differ by up to "
        f"{furthest:.2g}; the first answer counts",
    )


def _of_array(path: Path, labels: Sequence[str]) -> tuple[list[bytes], np.ndarray]:
    """Digests and logits of an .npy file and the .json beside it."""
    beside = path.with_suffix(".json")
    try:
        about = json.loads(beside.read_text(encoding="utf-8"))
        theirs, keys = [str(label) for label in about["labels"]], [bytes.fromhex(digest) for digest in about["digests"]]
        logits_MC = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(
            f'objective.teacher: {error.filename}: no such file; expected {{"labels": [...], "digests": [...]}} beside the logits'
        ) from None
    except (ValueError, KeyError, TypeError, EOFError) as error:
        reason = " ".join(str(error).split())[:150]
        raise InputError(
            f"objective.teacher: {path}: cannot be read with {beside.name} ({type(error).__name__}: {reason}); expected an "
            'array of numbers, and {"labels": [...], "digests": [...]} in hexadecimal'
        ) from None
    if logits_MC.shape != (len(keys), len(theirs)) or logits_MC.dtype.kind != "f":
        raise InputError(
            f"objective.teacher: {path}: expected floats of the shape ({len(keys)}, {len(theirs)}), as {beside.name} has digests "
            f"and labels, got {logits_MC.dtype} {logits_MC.shape}"
        )
    _refuse_rows(~np.isfinite(logits_MC), path, theirs, logits_MC, "a finite number")
    return keys, logits_MC[:, list(places_of(labels, theirs, owner=str(path)))]


def _of_table(path: Path, labels: Sequence[str]) -> tuple[list[bytes], np.ndarray]:
    """Digests and logits of a parquet file."""
    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())[:150]
        raise InputError(f"objective.teacher: {path}: not a readable parquet file ({reason}); write it again") from None
    kinds = [kind for kind in (LOGIT, PROBABILITY) if any(name.startswith(kind) for name in table.column_names)]
    if len(kinds) > 1:
        raise InputError(
            f"objective.teacher: {path}: has columns logit:NAME and p:NAME; keep those of one kind, which may differ"
        )
    prefix = kinds[0] if kinds else PROBABILITY
    columns = [name for name in table.column_names if name.startswith(prefix)]
    if not columns:
        raise InputError(
            f"objective.teacher: {path}: no column p:NAME or logit:NAME of a class; it has {', '.join(table.column_names[:12])}"
        )
    columns_C = places_of(labels, [name.removeprefix(prefix) for name in columns], owner=str(path))
    try:
        values_MC = np.stack([table[name].to_numpy().astype(np.float32) for name in columns], axis=1)
    except (ValueError, TypeError):
        raise InputError(f"objective.teacher: {path}: a column {prefix}NAME does not hold numbers") from None
    _refuse_rows(~np.isfinite(values_MC), path, columns, values_MC, "a finite number")
    if prefix == PROBABILITY:
        _refuse_rows((values_MC < 0) | (values_MC > 1), path, columns, values_MC, "a probability")
        uneven = np.flatnonzero(np.abs(values_MC.sum(axis=1) - 1) > 0.01)
        if len(uneven):
            total = float(values_MC[uneven[0]].sum())
            raise InputError(
                f"objective.teacher: {path}, row {uneven[0] + 1}: the columns p:NAME add up to {total:.4g}, expected 1; columns "
                "logit:NAME may hold any numbers"
            )
        values_MC = np.log(np.maximum(values_MC, LEAST))
    return _keys(table, path), values_MC[:, list(columns_C)]


def _refuse_rows(wrong_MC: np.ndarray, path: Path, columns: Sequence[str], values_MC: np.ndarray, wanted: str) -> None:
    if wrong_MC.any():
        row, column = np.argwhere(wrong_MC)[0]
        raise InputError(
            f"objective.teacher: {path}, row {row + 1}, column {columns[column]!r}: expected {wanted}, got "
            f"{values_MC[row, column]}"
        )


def _keys(table: pa.Table, path: Path) -> list[bytes]:
    """Whose answer each row of a parquet file is, as a digest."""
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
            f"objective.teacher: {path}: no column 'digest' or 'text' says whose answers these are; row numbers are not looked "
            "at, as other data have them too: write it by `hf-finetune predict --digests`"
        )
    texts = table.select([name for name in ("text", "text_pair") if name in names])
    for name in texts.column_names:
        if not pa.types.is_string(texts[name].type) and not pa.types.is_large_string(texts[name].type):
            raise InputError(f"objective.teacher: {path}: column {name!r} holds {texts[name].type}, expected text")
        if texts[name].null_count:
            row = texts[name].is_null().to_pylist().index(True)
            raise InputError(f"objective.teacher: {path}, row {row + 1}, column {name!r}: expected text, got nothing")
    return row_digests(texts)
