"""What every plan has, whatever the method: the data, the notes and the machine."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hf_finetune.data.loading import Splits
from hf_finetune.utils.console import paragraph


@dataclass(frozen=True)
class BasePlan:
    """What is known of a run before it is measured. Each plan adds its estimate."""

    name: str
    rows: dict[str, int]
    labels: int
    outputs: str
    """What the labels name: classes, tags or target."""
    columns: Mapping[str, str | list[str]]
    notes: list[str]
    environment: dict[str, Any]

    def _lines(self, measured: Iterable[tuple[str, str]]) -> str:
        """Return the name, the rows, what was measured, and the notes, a line each."""
        counts = ", ".join(f"{rows} {split}" for split, rows in self.rows.items())
        notes = (("note", note) for note in self.notes)
        lines = [("rows", f"{counts}, {self.labels} {self.outputs}"), *measured, *notes]
        return "\n".join([self.name, *(paragraph(title, text) for title, text in lines)])


def row_counts(splits: Splits) -> dict[str, int]:
    """Return the rows of each split."""
    return {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test or ())}
