"""A column of the source that says which rows belong together: of one author, patient or thread."""

import numpy as np
from datasets import Dataset

from hf_finetune.data.config import Kind, Role, Source
from hf_finetune.data.layout import role_of
from hf_finetune.data.sources import locate
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import did_you_mean


def group_numbers(
    source: Source, kind: Kind, column: str, rows: dict[str, Dataset], held_out: tuple[Role, ...]
) -> np.ndarray:
    """Return the number of the group of each row, those of the first split first, shape (N,).

    Args:
        rows: canonical rows by split. Each without a value is a group of its own.
        held_out: splits that were held out from train.

    Raises:
        InputError: a split has no such column, or is not in the source.
    """
    splits = {role_of(name) or name: split for name, split in locate(source, kind=kind, labeled=True).splits.items()}
    values: list[str] = []
    for role, part in rows.items():
        split = splits.get("train" if role in held_out else role)
        if split is None:
            raise InputError(f"evaluate.group {column}: expected the {role} rows in the data themselves; leave it out")
        if column not in split.columns:
            raise InputError(
                f"evaluate.group: {split.place} has no column {column!r}{did_you_mean(column, list(split.columns))}"
            )
        cells = [cell for chunk in split.chunks([column]) for cell in chunk.columns[column]]
        values += [f"={cells[row]}" if cells[row] not in (None, "") else f"{role} {row}" for row in part["row"][:]]
    numbers_N: np.ndarray = np.unique(values, return_inverse=True)[1]
    return numbers_N
