"""Texts and their views beside one another on the terminal, with marks where they differ."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence

from hf_finetune.data.text_pieces import UNSPACED
from hf_finetune.doctor.preview import TextPreview, joined_text

# A word, or a character of a script without spaces, with the white space before it.
_PIECE = re.compile(rf"\s*(?:[{UNSPACED}]|[^\s{UNSPACED}]+)")
LEGEND = "«new words», «» where words are left out"
SAME = "(unchanged)"
# Between columns; the least that a column may have; the most lines of a cell.
GAP, NARROWEST, LINES = "  ", 18, 12


def text_table(preview: TextPreview, *, width: int) -> str:
    """All rows of a preview of texts, each as a block of columns: the text as it is, then its views.

    Args:
        width: characters of a line.
    """
    heads = ["as it is", *(view.name for view in preview.views)]
    wide = max(NARROWEST, (width - len(GAP) * (len(heads) - 1)) // len(heads))
    blocks = [LEGEND]
    for i, (row, label) in enumerate(zip(preview.rows, preview.labels, strict=True)):
        text = joined_text(preview.original, i)
        cells = [" ".join(text.split()), *(mark_changes(text, joined_text(batch, i)) for batch in preview.batches)]
        table = [[head, "-" * wide, *_lines(cell, wide)] for head, cell in zip(heads, cells, strict=True)]
        blocks.append("\n".join([f"row {row}, {label}", *_beside(table, wide)]))
    return "\n\n".join(blocks)


def mark_changes(before: str, after: str) -> str:
    """The text `after` with marks around what is not in `before`, and where something of `before` is missing."""
    if before == after:
        return SAME
    old, new = _PIECE.findall(before), _PIECE.findall(after)
    matcher = difflib.SequenceMatcher(None, [p.strip() for p in old], [p.strip() for p in new], autojunk=False)
    parts = []
    for what, _, _, start, end in matcher.get_opcodes():
        pieces = "".join(" " * (piece[0].isspace()) + piece.strip() for piece in new[start:end])
        if what == "equal":
            parts.append(pieces)
        elif not pieces:
            parts.append(" «»" if start else "«» ")
        else:
            parts.append(f"{' ' * pieces.startswith(' ')}«{pieces.strip()}»")
    return "".join(parts).strip()


def _lines(text: str, wide: int) -> list[str]:
    """The text folded at `wide`, the many lines cut short."""
    lines, line, taken = [], "", 0
    for piece in _PIECE.findall(text):
        space, piece = " " * piece[0].isspace(), piece.strip()
        while piece:
            if taken + len(space) + _width(piece) <= wide:
                line, taken = line + space + piece, taken + len(space) + _width(piece)
                break
            if taken:
                lines.append(line)
                line, taken, space = "", 0, ""
                continue
            fits = next(n for n in range(len(piece), 0, -1) if _width(piece[:n]) <= wide)
            lines.append(piece[:fits])
            piece, space = piece[fits:], ""
    lines += [line] if line else []
    if len(lines) <= LINES:
        return lines
    return [*lines[: LINES - 1], f"... {len(lines) - LINES + 1} more lines"]


def _beside(table: Sequence[Sequence[str]], wide: int) -> list[str]:
    """Columns of lines as lines."""
    height = max(map(len, table))
    filled = [[*column, *[""] * (height - len(column))] for column in table]
    padded = [[cell + " " * (wide - _width(cell)) for cell in column] for column in filled]
    return [GAP.join(cells).rstrip() for cells in zip(*padded, strict=True)]


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
