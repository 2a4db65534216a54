"""A column of the source that says which rows belong together: of one author, patient or thread."""

from collections.abc import Mapping, Sequence

import numpy as np

from hf_finetune.data.config import Kind, Role, Source
from hf_finetune.data.layout import role_of
from hf_finetune.data.sources import locate
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import did_you_mean


def group_numbers(
    source: Source, kind: Kind, column: str, rows: Mapping[str, Sequence[int]], held_out: tuple[Role, ...]
) -> np.ndarray:
    """Return the number of the group of each row, those of the first split first, shape (N,).

    Args:
        rows: row numbers by split. Each row without a value is a group of its own.
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
        values += [f"={cells[row]}" if cells[row] not in (None, "") else f"{role} {row}" for row in part]
    numbers_N: np.ndarray = np.unique(values, return_inverse=True)[1]
    return numbers_N


def joined_groups(groups_N: np.ndarray, others_N: np.ndarray) -> np.ndarray:
    """Return a number for each row, shape (N,): rows that share either group, also by way of others, have the same.

    Args:
        groups_N, others_N: numbers from 0.

    Examples:
        >>> joined_groups(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])).tolist()  # rows 1 and 2 join 0 and 1
        [0, 0, 0, 1]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first = int(groups_N.max()) + 1
    size = first + int(others_N.max()) + 1
    edges = coo_array((np.ones(len(groups_N)), (groups_N, first + others_N)), shape=(size, size))
    joined_N: np.ndarray = connected_components(edges, directed=False)[1][groups_N]
    return joined_N
