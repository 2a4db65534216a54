"""Previews of augmentation: the views that training sees, as text and as a contact sheet."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from helpers.small_runs import text_rows
from PIL import Image

from hf_finetune.augmentation.augmenter import Augmenter, population_of
from hf_finetune.augmentation.compose import Compose, Phases
from hf_finetune.augmentation.operations import TextBatch
from hf_finetune.augmentation.text.characters import ChangeCase
from hf_finetune.doctor.contact_sheet import GAP, LINE, describe_mixture, draw_contact_sheet
from hf_finetune.doctor.preview import (
    ImagePreview,
    Mixture,
    TextPreview,
    View,
    first_views,
    preview_rows,
    rows_of_every_class,
)
from hf_finetune.doctor.side_by_side import LEGEND, mark_changes, text_table


def shown(original, *batches, labels=("no", "yes")) -> TextPreview | ImagePreview:
    views = tuple(View(f"epoch {i}", i) for i in range(len(batches)))
    kind = TextPreview if isinstance(original, TextBatch) else ImagePreview
    return kind((4, 9)[: len(labels)], labels, views, original, batches)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a good film", "a good film", "(unchanged)"),
        ("a good film", "a fine film", "a «fine» film"),
        ("a good film", "a film", "a «» film"),
        ("a good film", "a good old film", "a good «old» film"),
        ("a good film", "good film", "«» good film"),
        ("a good film", "very, very bad", "«very, very bad»"),
        ("a  good\nfilm", "a  good\nnew film", "a good «new» film"),
        ("\u597d\u96fb\u5f71", "\u58de\u96fb\u5f71", "«\u58de»\u96fb\u5f71"),
    ],
)
def test_marks(before: str, after: str, expected: str) -> None:
    assert mark_changes(before, after) == expected


def test_texts_stand_side_by_side() -> None:
    preview = shown(
        TextBatch(["a good film", "so long a text that it is folded"]),
        TextBatch(["a film", "so long a text that it is folded"]),
        TextBatch(["a good film", "so long a text that it is bent"]),
    )
    assert text_table(preview, width=60) == "\n".join(
        [
            LEGEND,
            "",
            "row 4, no",
            "as it is            epoch 0             epoch 1",
            "------------------  ------------------  ------------------",
            "a good film         a «» film           (unchanged)",
            "",
            "row 9, yes",
            "as it is            epoch 0             epoch 1",
            "------------------  ------------------  ------------------",
            "so long a text      (unchanged)         so long a text",
            "that it is folded                       that it is «bent»",
        ]
    )


def test_wide_characters_and_long_words_keep_the_columns() -> None:
    preview = shown(TextBatch(["\u597d" * 12, "x" * 20]), TextBatch(["\u597d" * 12, "x" * 19]), labels=("no", "yes"))
    lines = text_table(preview, width=38).splitlines()
    assert lines[5] == "\u597d" * 9 + "  (unchanged)" and lines[6] == "\u597d" * 3
    assert lines[-2] == "x" * 18 + "  «" + "x" * 17 and lines[-1] == "xx" + " " * 18 + "xx»"


def test_long_texts_are_cut_short() -> None:
    text = " ".join(["word"] * 100)
    lines = text_table(shown(TextBatch([text]), TextBatch([text]), labels=("no",)), width=38).splitlines()
    # Three words a line: eleven lines of 34.
    assert len(lines) == 3 + 2 + 12 and lines[-1] == "... 23 more lines"


def test_both_texts_of_a_pair_are_shown() -> None:
    preview = shown(TextBatch(["one"], ["two"]), TextBatch(["one"], ["three"]), labels=("no",))
    assert text_table(preview, width=60).splitlines()[-1].split("  ")[0] == "one | two"
    assert preview.to_dict() == {
        "views": ["epoch 0"],
        "rows": [{"row": 4, "label": "no", "text": "one | two", "views": {"epoch 0": "one | three"}}],
    }


def test_a_contact_sheet_has_a_row_for_each_image_and_a_column_for_each_view() -> None:
    colors = torch.tensor([[200, 30, 30], [30, 200, 30]], dtype=torch.uint8)
    original = colors[:, :, None, None].expand(2, 3, 150, 120)
    sheet = Image.open(io.BytesIO(draw_contact_sheet(shown(original, original.flip(1), labels=("no", "yes")))))
    assert sheet.size == (GAP + 2 * (120 + GAP), LINE + GAP + 2 * (LINE + 150 + GAP))
    pixels = np.asarray(sheet.convert("RGB"))
    for row in range(2):
        top = LINE + GAP + row * (LINE + 150 + GAP) + LINE
        for column, color in enumerate((colors[row], colors[row].flip(0))):
            left = GAP + column * (120 + GAP)
            assert (pixels[top : top + 150, left : left + 120] == color.numpy()).all()
    # Something is written at the top and above each row.
    for top in (0, LINE + GAP, LINE + GAP + LINE + 150 + GAP):
        assert (pixels[top : top + LINE, :120].min(axis=(1, 2)) < 100).any()


def test_what_is_in_a_mixed_image() -> None:
    pixels = torch.zeros(2, 3, 150, 120, dtype=torch.uint8)
    mixed = ImagePreview(
        (4, 9),
        ("no", "yes"),
        (View("epoch 0", 0), View("epoch 1", 1), View("epoch 2", 2)),
        pixels,
        (pixels,) * 3,
        (Mixture(0.75, (1, 0)), None, Mixture(0.0, (1, 1))),
    )
    assert mixed.parts(0, 0) == ((0, 0.75), (1, 0.25)) and mixed.parts(0, 1) == ((1, 0.75), (0, 0.25))
    assert mixed.parts(1, 0) == ((0, 1.0),)
    # Nothing is left of the first row.
    assert mixed.parts(2, 0) == ((1, 1.0),)
    assert mixed.to_dict()["rows"][0]["mixed"] == {
        "epoch 0": [{"row": 4, "label": "no", "share": 0.75}, {"row": 9, "label": "yes", "share": 0.25}],
        "epoch 1": [{"row": 4, "label": "no", "share": 1.0}],
        "epoch 2": [{"row": 9, "label": "yes", "share": 1.0}],
    }
    assert [describe_mixture(mixed, look, 0) for look in range(3)] == ["75% no, 25% yes", "no", "yes"]
    # Two rows of a class are of that class.
    assert describe_mixture(dataclasses.replace(mixed, labels=("no", "no")), 0, 0) == "no"


def test_a_sheet_of_mixed_images_says_above_each_what_is_in_it() -> None:
    pixels = torch.full((2, 3, 150, 120), 250, dtype=torch.uint8)
    preview = dataclasses.replace(shown(pixels, pixels), mixtures=(Mixture(0.75, (1, 0)),))
    sheet = Image.open(io.BytesIO(draw_contact_sheet(preview)))
    assert sheet.size == (GAP + 2 * (120 + GAP), LINE + GAP + 2 * (2 * LINE + 150 + GAP))
    grey = np.asarray(sheet.convert("L"))
    for row in range(2):
        line = LINE + GAP + row * (2 * LINE + 150 + GAP) + LINE
        # Above the image as it is nothing stands, above the mixed one its parts; below are the images.
        assert (grey[line : line + LINE, : 120 + GAP] > 100).all()
        assert (grey[line : line + LINE, 120 + 2 * GAP :] < 100).any()
        assert (grey[line + LINE : line + LINE + 150, GAP : GAP + 120] == 250).all()


def test_small_images_are_enlarged_and_large_ones_shrunk() -> None:
    small = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    large = torch.zeros(1, 3, 448, 448, dtype=torch.uint8)
    for pixels, side in ((small, 128), (large, 224)):
        sheet = Image.open(io.BytesIO(draw_contact_sheet(shown(pixels, labels=("no",)))))
        assert sheet.width == GAP + side + GAP


def test_of_phases_an_epoch_shows_that_of_its_first_step() -> None:
    rows = text_rows(4)
    phases = Phases((ChangeCase(1.0, to="upper"), Compose(())))
    augmentation = Augmenter((phases,), 0, population_of(rows, ("bad", "good")))
    preview = preview_rows(rows, ("bad", "good"), [2, 0], augmentation, first_views(3, 0), epochs=3.0)
    plain = [rows["text"][row] for row in (2, 0)]
    # At 0, 1/3 and 2/3 of the training.
    assert [view.texts for view in preview.batches] == [[text.upper() for text in plain]] * 2 + [plain]


def test_rows_of_every_class_in_turn() -> None:
    assert rows_of_every_class(np.array([0, 0, 1, 0, 2, 1]), 4) == [0, 2, 4, 1]
    assert rows_of_every_class(np.array([0, 0, 1]), 9) == [0, 2, 1]
    # What has no label is of none.
    assert rows_of_every_class(np.array([-1, 0, 1, -1, 0]), 9) == [1, 2, 4]


def test_stored_copies_are_views_of_the_first_epoch() -> None:
    assert first_views(3, 0) == (View("epoch 0", 0), View("epoch 1", 1), View("epoch 2", 2))
    assert first_views(3, 2) == (View("copy 1", 0, 1), View("copy 2", 0, 2))
