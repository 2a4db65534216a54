"""Print texts and their augmented views side by side, with marks where they differ."""

import difflib
import re
import unicodedata
from collections.abc import Sequence

from hf_finetune.data.text_pieces import UNSPACED
from hf_finetune.doctor.preview import TextPreview, joined_text

# A word, or a character of a script without spaces, with leading white space.
_PIECE = re.compile(rf"\s*(?:[{UNSPACED}]|[^\s{UNSPACED}]+)")
LEGEND = "«new words», «» for deleted words"
SAME = "(unchanged)"
# Gap between columns, least width of a column, most lines of a cell.
GAP, NARROWEST, LINES = "  ", 18, 12


def text_table(preview: TextPreview, *, width: int) -> str:
    """Format each row of a preview as a block of columns: the original text, then its views.

    Args:
        width: of a line, in characters.
    """
    titles = ["as it is", *(view.name for view in preview.views)]
    column_width = max(NARROWEST, (width - len(GAP) * (len(titles) - 1)) // len(titles))
    blocks = [LEGEND]
    for i, (row, label) in enumerate(zip(preview.rows, preview.labels, strict=True)):
        text = joined_text(preview.original, i)
        cells = [" ".join(text.split()), *(mark_changes(text, joined_text(batch, i)) for batch in preview.batches)]
        columns = zip(titles, cells, strict=True)
        table = [[title, "-" * column_width, *_wrap(cell, column_width)] for title, cell in columns]
        blocks.append("\n".join([f"row {row}, {label}", *_side_by_side(table, column_width)]))
    return "\n\n".join(blocks)


def mark_changes(before: str, after: str) -> str:
    """Return the text `after` with marks around words that are new, and in place of words that are deleted."""
    if before == after:
        return SAME
    old, new = _PIECE.findall(before), _PIECE.findall(after)
    matcher = difflib.SequenceMatcher(None, [p.strip() for p in old], [p.strip() for p in new], autojunk=False)
    parts = []
    for operation, _, _, start, end in matcher.get_opcodes():
        pieces = "".join(" " * (piece[0].isspace()) + piece.strip() for piece in new[start:end])
        if operation == "equal":
            parts.append(pieces)
        elif not pieces:
            parts.append(" «»" if start else "«» ")
        else:
            parts.append(f"{' ' * pieces.startswith(' ')}«{pieces.strip()}»")
    return "".join(parts).strip()


def _wrap(text: str, width: int) -> list[str]:
    """Wrap the text at `width` columns, limited to `LINES` lines."""
    lines, line, used = [], "", 0
    for piece in _PIECE.findall(text):
        space, piece = " " * piece[0].isspace(), piece.strip()
        while piece:
            if used + len(space) + _width(piece) <= width:
                line, used = line + space + piece, used + len(space) + _width(piece)
                break
            if used:
                lines.append(line)
                line, used, space = "", 0, ""
                continue
            fits = next(n for n in range(len(piece), 0, -1) if _width(piece[:n]) <= width)
            lines.append(piece[:fits])
            piece, space = piece[fits:], ""
    lines += [line] if line else []
    if len(lines) <= LINES:
        return lines
    return [*lines[: LINES - 1], f"... {len(lines) - LINES + 1} more lines"]


def _side_by_side(table: Sequence[Sequence[str]], width: int) -> list[str]:
    """Join columns of lines to lines."""
    height = max(map(len, table))
    filled = [[*column, *[""] * (height - len(column))] for column in table]
    padded = [[cell + " " * (width - _width(cell)) for cell in column] for column in filled]
    return [GAP.join(cells).rstrip() for cells in zip(*padded, strict=True)]


def _width(text: str) -> int:
    """Return the width of a text in terminal columns."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
