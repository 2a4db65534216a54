"""Labels that are one of several ordered classes a row."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from hf_finetune.data.labels import ClassIds, plain_name, plain_names
from hf_finetune.data.targets.base import LabelColumn, Settled
from hf_finetune.data.targets.single_label import SingleLabel
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import Notes, did_you_mean, listed


class LevelIds(ClassIds):
    """Assign class ids to the levels of an order, as they appear."""

    def __init__(self, order: Sequence[str]) -> None:
        super().__init__()
        self.order, self._plain = order, {plain_name(name) for name in order}

    def _id(self, name: str, kind: type) -> int:
        if plain_name(name) not in self._plain:
            flag = f"--label-order {','.join(self.order)}"
            raise ValueError(
                f"the label {name!r} is no level of {flag}{did_you_mean(name, self.order)}; name each level"
            )
        return super()._id(name, kind)


@dataclass(frozen=True)
class Ordinal(SingleLabel):
    """One of several ordered classes a row."""

    order: tuple[str, ...] = ()
    """Their names, the lowest first. (): whole numbers, or the order that the source declares."""
    task = "ordinal"
    expected = "levels (whole numbers, or text with --label-order)"
    stratum = "level"

    def reader(
        self, labels: Sequence[str] | None = None, owner: str = "", values: Mapping[str, str] | None = None
    ) -> ClassIds:
        """Return a reader of class ids, of no other levels than those of the order."""
        return LevelIds(self.order) if labels is None and self.order else super().reader(labels, owner, values)

    def settle(self, reader: ClassIds, cells: pa.ChunkedArray, column: LabelColumn, notes: Notes) -> Settled:
        """Order the levels: by `order`, numerically, or as declared."""
        names = set(plain_names(reader.ids).values())
        if self.order:
            self._check_order(column)
            column = replace(column, declared=tuple(plain_names(self.order).values()))
        elif not (_are_numbers(names) or column.label_names or names <= set(column.declared)):
            are_numbers = all(re.fullmatch(r"-?\d*\.?\d+", name) for name in names)
            what, remedy = ("no whole numbers", ", or use --task regression") if are_numbers else ("text", "")
            raise InputError(
                f"{column.place}: the levels in column {column.name!r} are {what} ({listed(sorted(names))}); name them "
                f"from the lowest to the highest by --label-order A,B,C{remedy}"
            )
        settled = super().settle(reader, cells, column, notes)
        notes.add(f"{len(settled.labels)} levels, the lowest first: {listed(list(settled.labels), most=12)}")
        return settled

    def _check_order(self, column: LabelColumn) -> None:
        flag = f"--label-order {','.join(self.order)}"
        if len(set(self.order)) < len(self.order):
            raise InputError(f"{flag}: expected each level once")
        if column.label_names:
            raise InputError(f"{flag}: expected none together with --label-names, which have an order; leave one out")


def _are_numbers(names: Iterable[str]) -> bool:
    return all(re.fullmatch(r"-?\d{1,18}", name) for name in names)
