"""Labels that are one of several ordered classes a row."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pyarrow as pa

from hf_finetune.data.labels import ClassIds, plain_names
from hf_finetune.data.targets.base import LabelColumn, Settled
from hf_finetune.data.targets.single_label import SingleLabel
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import Notes, did_you_mean, listed


@dataclass(frozen=True)
class Ordinal(SingleLabel):
    """One of several ordered classes a row."""

    order: tuple[str, ...] = ()
    """Their names, the lowest first. (): whole numbers, or the order that the source declares."""
    task = "ordinal"
    expected = "levels (whole numbers, or text with --label-order)"
    stratum = "level"

    def settle(self, reader: ClassIds, cells: pa.ChunkedArray, column: LabelColumn, notes: Notes) -> Settled:
        """Order the levels: by `order`, numerically, or as declared."""
        names = set(plain_names(reader.ids).values())
        if self.order:
            self._check_order(names, column)
            column = replace(column, declared=self.order)
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

    def _check_order(self, names: set[str], column: LabelColumn) -> None:
        flag = f"--label-order {','.join(self.order)}"
        if len(set(self.order)) < len(self.order):
            raise InputError(f"{flag}: expected each level once")
        if column.label_names:
            raise InputError(f"{flag}: expected none together with --label-names, which have an order; leave one out")
        if missing := sorted(names - set(self.order)):
            raise InputError(
                f"{flag}: it lacks {missing[0]!r} of column {column.name!r} of {column.place}"
                f"{did_you_mean(missing[0], self.order)}; name every level"
            )


def _are_numbers(names: Iterable[str]) -> bool:
    return all(re.fullmatch(r"-?\d{1,18}", name) for name in names)
