"""Features of rows, by values that a person can compute."""

import io
from math import log1p

import numpy as np
import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from hf_finetune.errors import InputError
from hf_finetune.features.config import (
    ColorHistogram,
    GradientHistogram,
    NominalColumns,
    NumberColumns,
    Pixels,
    RowStatistics,
    TextCounts,
    WordOverlap,
    WordTfidf,
)
from hf_finetune.features.extractors.color_histogram import color_shares
from hf_finetune.features.extractors.gradient_histogram import oriented_gradients
from hf_finetune.features.extractors.text_counts import COUNTS, counts_of
from hf_finetune.features.table import RowTable


def rows() -> Dataset:
    return Dataset.from_dict(
        {
            "text": ["good one", "bad two", "good three", "bad"],
            "label": [1, 0, 1, 0],
            "row": [0, 1, 2, 3],
            "feature:price": ["1", None, "3", "5.5"],
            "feature:weight": ["1e1", "2", None, "4"],
            "feature:shop": ["a", "b", None, "a"],
        }
    )


def images(*pixels: np.ndarray) -> Dataset:
    encoded = []
    for each in pixels:
        buffer = io.BytesIO()
        Image.fromarray(each.astype(np.uint8)).save(buffer, format="PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    return Dataset.from_dict({"image": encoded}).cast_column("image", ImageFeature(decode=False))


def test_counts_of_a_text() -> None:
    counts = dict(zip(COUNTS, counts_of("Go go! See https://x.org 42?\n"), strict=True))
    assert counts["characters"] == log1p(29)
    assert counts["lines"] == counts["exclamations"] == counts["questions"] == counts["links"] == log1p(1)
    assert counts["upper"] == 2 / 29
    assert counts["digits"] == 2 / 29
    # Words: go go ! see https : / / x . org 42 ? are 13, of which 11 differ; of the 7 without punctuation, 18 characters.
    assert counts["words"] == log1p(13)
    assert counts["distinct_words"] == 11 / 13
    assert counts["mean_word"] == 18 / 7
    assert counts["punctuation"] == 6 / 29


def test_an_empty_text_has_counts() -> None:
    assert np.isfinite(counts_of("")).all()


def test_the_table_has_the_columns_of_the_source() -> None:
    table = RowTable.of(rows(), (WordTfidf(), TextCounts(), RowStatistics()), {"text": "review"})
    frame = table(rows())
    assert list(frame.columns[:4]) == ["review", "price", "weight", "shop"]
    assert frame["price"].tolist()[2:] == [3, 5.5]
    assert np.isnan(frame["price"][1])
    assert frame["shop"].tolist() == ["a", "b", "", "a"]
    assert frame["counts:review:words"].tolist() == pytest.approx([log1p(2), log1p(2), log1p(2), log1p(1)])
    assert table.columns.numbers == ("price", "weight")
    assert table.columns.names == ("shop",)


def test_statistics_of_the_numbers_of_a_row() -> None:
    frame = RowTable.of(rows(), (RowStatistics(),))(rows())
    statistics = frame[[f"statistics:{name}" for name in ("min", "max", "mean", "variance", "missing")]].to_numpy()
    assert statistics.tolist() == [[1, 10, 5.5, 20.25, 0], [2, 2, 2, 0, 1], [3, 3, 3, 0, 1], [4, 5.5, 4.75, 0.5625, 0]]


def test_numbers_are_imputed_and_scaled_by_the_training_rows() -> None:
    table = RowTable.of(rows(), (NumberColumns(columns=("price",), scale="min-max"),))
    (part,) = table.extractors[0].parts(table.columns)
    features = part.transformer.fit_transform(table(rows())[part.columns])
    # The median is 3; 1 to 5.5 become 0 to 1; the second feature says that it was missing.
    assert features == pytest.approx(np.array([[0, 0], [2 / 4.5, 1], [2 / 4.5, 0], [1, 0]]))


def test_numbers_may_stand_for_names() -> None:
    table = RowTable.of(rows(), (NominalColumns(columns=("price",), min_rows=1),))
    assert table.columns.names == ("price", "shop")
    (part,) = table.extractors[0].parts(table.columns)
    assert part.transformer.fit_transform(table(rows())[part.columns]).shape == (4, 4)


def test_default_extractors_read_all_columns() -> None:
    assert RowTable.of(rows()).extractors == (WordTfidf(), NumberColumns(), NominalColumns())
    pairs = rows().add_column("text_pair", ["a", "b", "c", "d"])
    assert RowTable.of(pairs).extractors[1] == WordOverlap()
    assert RowTable.of(images(np.zeros((20, 20, 3)))).extractors == (Pixels(),)


@pytest.mark.parametrize(
    ("extractor", "message"),
    [
        (WordOverlap(), "WordOverlap expects pairs of texts, got texts and numbers in 'price', 'weight' and names"),
        (Pixels(), "Pixels expects images, got texts"),
        (
            NumberColumns(columns=("pric",)),
            "'pric' is none of columns of numbers, named by --features, did you mean 'price'",
        ),
        (NumberColumns(columns=("shop",)), "'shop' is none of columns of numbers"),
    ],
)
def test_an_extractor_without_anything_to_read_is_refused(extractor: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RowTable.of(rows(), (extractor,))


def test_a_name_in_a_column_of_numbers_is_refused() -> None:
    table = RowTable.of(rows())
    wrong = rows().map(lambda row: {"feature:price": "cheap" if row["row"] == 2 else row["feature:price"]})
    with pytest.raises(
        InputError,
        match="row 2 counted from 0, column 'price': expected a number, as in the training rows, got 'cheap'",
    ):
        table(wrong)


def test_color_shares_of_two_colors() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:, :1] = (255, 0, 128)
    shares = color_shares(pixels, 4)
    assert shares[0] == 0.75
    assert shares[3 * 16 + 0 * 4 + 2] == 0.25
    assert shares.sum() == 1


@pytest.mark.parametrize(("axis", "orientation"), [(1, 0), (0, 1)])
def test_gradients_of_an_edge(axis: int, orientation: int) -> None:
    """Levels that rise to the right have gradients of 0 degrees; downwards of 90, which of 2 ranges is the second."""
    ramp = np.broadcast_to(np.arange(16) * 10, (16, 16))
    pixels = np.repeat((ramp if axis == 1 else ramp.T)[..., None], 3, axis=-1)
    block = oriented_gradients(pixels, 2).reshape(2, 2, 2)
    assert not block[..., 1 - orientation].any()
    # Four equal cells in a block of norm 1: 1/2 each, limited to 0.2, and 1/2 again.
    assert block[..., orientation] == pytest.approx(np.full((2, 2), 0.5))


def test_features_of_images_have_one_row_each() -> None:
    table = RowTable.of(images(np.zeros((30, 40, 3)), np.full((9, 9), 200)), (ColorHistogram(), GradientHistogram()))
    assert table(images(np.zeros((30, 40, 3)), np.full((9, 9), 200))).shape == (2, 64 + 1764)
