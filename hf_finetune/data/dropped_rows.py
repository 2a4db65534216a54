"""Write the list of rows that were left out as unusable."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from hf_finetune.data.rows import UnusableRow
from hf_finetune.utils.files import write_text
from hf_finetune.utils.messages import printable


def write_dropped(path: Path, dropped: Mapping[str, Sequence[UnusableRow]]) -> None:
    """Write a csv file with one line per dropped row: split, row (from 0), place, kind of fault, and reason."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["split", "row", "place", "kind", "reason"])
    for split, rows in dropped.items():
        for row in rows:
            writer.writerow([split, row.row, printable(row.place), row.fault.kind, printable(row.reason)])
    write_text(path, content.getvalue())
