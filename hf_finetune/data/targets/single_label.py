"""Labels that are one class a row."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa

from hf_finetune.data.config import TaskName
from hf_finetune.data.labels import ClassIds, check_classes, name_values, order_classes, plain_names
from hf_finetune.data.targets.base import LabelColumn, Settled, Targets
from hf_finetune.utils.messages import Notes, listed


class SingleLabel(Targets):
    """One class a row."""

    task: ClassVar[TaskName] = "single-label"
    column_kinds = ("string", "number", "class")
    expected = "classes (text or whole numbers)"
    stratum = "class"

    def reader(
        self, labels: Sequence[str] | None = None, owner: str = "", values: Mapping[str, str] | None = None
    ) -> ClassIds:
        """Return a reader of class ids."""
        return ClassIds(labels, owner, values)

    def settle(self, reader: ClassIds, cells: pa.ChunkedArray, column: LabelColumn, notes: Notes) -> Settled:
        """Order the classes: as declared, numerically or alphabetically."""
        names = plain_names(reader.ids)
        values: dict[str, str] = {}
        if column.label_names:
            values = name_values(set(names.values()), column.label_names, column.place, column.name)
            names = {name: values[plain] for name, plain in names.items()}
            notes.add(f"labels named: {listed([f'{value} = {name}' for value, name in values.items()], most=12)}")
        labels = order_classes(names.values(), column.label_names or column.declared)
        _note_classes(reader, column.declared, notes)
        check_classes(labels, len(cells), column.place, column.name, most=column.most_classes)
        # From the order of appearance to the order of the classes.
        ids = {name: i for i, name in enumerate(labels)}
        column_N = np.array([ids[names[name]] for name in reader.ids])[cells.to_numpy()]
        return Settled(labels, pa.array(column_N, pa.int64()), values)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Return the classes."""
        return labels

    def single_rows(self, labels: np.ndarray, names: Sequence[str]) -> list[str]:
        """Return the classes of a single row."""
        return [names[label] for label in np.flatnonzero(np.bincount(labels) == 1).tolist()]


def _note_classes(classes: ClassIds, declared: Sequence[str], notes: Notes) -> None:
    if absent := [name for name in declared if name not in classes.ids]:
        notes.add(f"classes without a training row are ignored: {listed(absent)}")
    if len(classes.types) > 1:
        types = listed(sorted(t.__name__ for t in classes.types))
        notes.add(f"the labels have several types ({types}) and are compared as text: 1 and '1' are one class")
