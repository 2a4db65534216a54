"""Pictures and their views on one sheet: a row for each picture, a column for each view.

Legend: H height, W width.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import torch

from hf_finetune.doctor.preview import Preview

if TYPE_CHECKING:
    from PIL.Image import Image

# Pixels: between pictures, of a line of text; a picture's longer side is enlarged or shrunk to lie between the two.
GAP, LINE = 6, 18
SMALLEST, LARGEST = 112, 224
# A light grey: the edge of a white picture is seen on it.
PAPER = (225, 225, 225)


def contact_sheet(shown: Preview) -> bytes:
    """A preview of pictures, as PNG: what stands in a column at the top, row and class above every row of pictures, and where
    they are mixed, shares and classes above every one."""
    from PIL import Image, ImageDraw, ImageFont

    assert isinstance(shown.original, torch.Tensor)
    columns = [shown.original, *shown.views]
    cells = [[_cell(pixels[i]) for pixels in columns] for i in range(len(shown.rows))]
    wide, high = cells[0][0].size
    # Above each row of pictures: a line on the row, and one on what is in each picture.
    head = LINE * (2 if shown.mixtures else 1)
    sheet = Image.new("RGB", (GAP + len(columns) * (wide + GAP), LINE + GAP + len(cells) * (head + high + GAP)), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)

    def write(x: int, y: int, text: str, room: int) -> None:
        while text and draw.textlength(text, font=font) > room:
            text = text[:-1]
        draw.text((x, y), text, fill="black", font=font)

    for column, name in enumerate(["as it is", *(look.name for look in shown.looks)]):
        write(GAP + column * (wide + GAP), GAP // 2, name, wide)
    for i, (row, label) in enumerate(zip(shown.rows, shown.labels, strict=True)):
        top = LINE + GAP + i * (head + high + GAP)
        write(GAP, top, f"row {row}, {label}", sheet.width - 2 * GAP)
        for look in range(len(shown.mixtures)):
            write(GAP + (look + 1) * (wide + GAP), top + LINE, _in_words(shown, look, i), wide)
        for column, picture in enumerate(cells[i]):
            sheet.paste(picture, (GAP + column * (wide + GAP), top + head))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _in_words(shown: Preview, look: int, i: int) -> str:
    """The classes in a picture, each with its share: `73% cat, 27% dog`; `cat`, where it is not mixed."""
    parts = [(shown.labels[row], share) for row, share in shown.parts(look, i)]
    if len({label for label, _ in parts}) == 1:
        return parts[0][0]
    return ", ".join(f"{share:.0%} {label}" for label, share in parts)


def _cell(pixels_3HW: torch.Tensor) -> Image:
    """A picture at its own size, unless that is too small to see much or too large for a sheet."""
    from PIL import Image

    picture = Image.fromarray(pixels_3HW.permute(1, 2, 0).numpy())
    side = max(picture.size)
    if side < SMALLEST:
        times = -(-SMALLEST // side)
        return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    if side > LARGEST:
        picture.thumbnail((LARGEST, LARGEST))
    return picture
