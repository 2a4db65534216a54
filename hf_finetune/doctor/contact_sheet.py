"""Draw a contact sheet: a row for each image, a column for each augmented view.

Legend: H height, W width.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import torch

from hf_finetune.doctor.preview import ImagePreview

if TYPE_CHECKING:
    from PIL.Image import Image

# In pixels: gap between images, height of a text line, and limits of the longer side of an image.
GAP, LINE = 6, 18
SMALLEST, LARGEST = 112, 224
# Light gray, to show the edge of a white image.
PAPER = (225, 225, 225)


def draw_contact_sheet(preview: ImagePreview) -> bytes:
    """Return a preview of images as PNG, with the name of each view, row and class, and the shares of mixed images."""
    from PIL import Image, ImageDraw, ImageFont

    columns = [preview.original, *preview.batches]
    cells = [[_cell(pixels[i]) for pixels in columns] for i in range(len(preview.rows))]
    width, height = cells[0][0].size
    # Text above each row of images: row and class, then the shares of mixed images.
    caption = LINE * (2 if preview.mixtures else 1)
    sheet = Image.new(
        "RGB", (GAP + len(columns) * (width + GAP), LINE + GAP + len(cells) * (caption + height + GAP)), PAPER
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)

    def write(x: int, y: int, text: str, room: int) -> None:
        while text and draw.textlength(text, font=font) > room:
            text = text[:-1]
        draw.text((x, y), text, fill="black", font=font)

    for column, name in enumerate(["as it is", *(view.name for view in preview.views)]):
        write(GAP + column * (width + GAP), GAP // 2, name, width)
    for i, (row, label) in enumerate(zip(preview.rows, preview.labels, strict=True)):
        top = LINE + GAP + i * (caption + height + GAP)
        write(GAP, top, f"row {row}, {label}", sheet.width - 2 * GAP)
        for view in range(len(preview.mixtures)):
            write(GAP + (view + 1) * (width + GAP), top + LINE, describe_mixture(preview, view, i), width)
        for column, image in enumerate(cells[i]):
            sheet.paste(image, (GAP + column * (width + GAP), top + caption))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def describe_mixture(preview: ImagePreview, view: int, i: int) -> str:
    """Describe the classes of an image with their shares, `73% cat, 27% dog`, or `cat` if it is not mixed."""
    parts = [(preview.labels[row], share) for row, share in preview.parts(view, i)]
    if len({label for label, _ in parts}) == 1:
        return parts[0][0]
    return ", ".join(f"{share:.0%} {label}" for label, share in parts)


def _cell(pixels_3HW: torch.Tensor) -> Image:
    """Convert an image, enlarged or reduced to the limits of its size."""
    from PIL import Image

    image = Image.fromarray(pixels_3HW.permute(1, 2, 0).numpy())
    side = max(image.size)
    if side < SMALLEST:
        times = -(-SMALLEST // side)
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    if side > LARGEST:
        image.thumbnail((LARGEST, LARGEST))
    return image
