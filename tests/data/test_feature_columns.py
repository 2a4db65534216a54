"""Columns beside the text: read, carried through splits, compared and refused."""

from pathlib import Path

import pytest

from hf_finetune.config.data import TextData
from hf_finetune.config.recipe import Recipe
from hf_finetune.config.rules import check
from hf_finetune.data.config import Source, SourceSplit
from hf_finetune.data.loading import load
from hf_finetune.data.streaming import stream
from hf_finetune.errors import InputError
from hf_finetune.models.config import Model

LINES = ["text,label,price,shop", *(f"word{i // 4},{'ab'[i // 4 % 2]},{i or ''},s{i % 3}" for i in range(60))]


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "rows.csv").write_text("\n".join(LINES) + "\n")
    return str(tmp_path / "rows.csv")


def test_features_are_cells_of_text(path: str) -> None:
    splits = load(Source(path, features=("price", "shop")), "text")
    assert splits.train.column_names == ["text", "label", "row", "feature:price", "feature:shop"]
    assert splits.columns == {"text": "text", "label": "label", "feature:price": "price", "feature:shop": "shop"}
    cells = {**dict(zip(splits.train["row"][:], splits.train["feature:price"][:], strict=True))}
    assert all(cell == (str(row) if row else None) for row, cell in cells.items())


def test_rows_of_the_same_text_and_other_features_are_no_duplicates(path: str) -> None:
    alone, beside = load(Source(path), "text"), load(Source(path, features=("price",)), "text")
    assert alone.duplicates != {"validation": 0} or any("repeat" in note for note in alone.notes)
    assert beside.duplicates == {"validation": 0}
    assert not any("repeat" in note for note in beside.notes)
    assert alone.fingerprint != beside.fingerprint != load(Source(path, features=("shop",)), "text").fingerprint


def test_rows_to_predict_have_features(path: str) -> None:
    (rows,) = stream(SourceSplit(path, features=("price",)), "text")
    assert rows["feature:price"][:3] == [None, "1", "2"]


def test_a_missing_column_is_named(path: str) -> None:
    with pytest.raises(InputError, match=r"--features pric: .*rows.csv has no such column, did you mean 'price'"):
        load(Source(path, features=("pric",)), "text")
    with pytest.raises(InputError, match="--label and --features: the same column is named twice"):
        load(Source(path, label="label", features=("label",)), "text")


def test_a_long_cell_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("\n".join([*LINES, f"word,a,1,{'x' * 1001}"]) + "\n")
    message = r"line 62.*, column 'shop': the feature has 1,001 characters, expected at most 1,000;.*label-characters"
    with pytest.raises(InputError, match=message):
        load(Source(str(file), features=("shop",)), "text")


def test_a_network_reads_no_features(path: str) -> None:
    recipe = Recipe(name="", data=TextData(path=path, features=("price",)), model=Model(checkpoint="x"))
    with pytest.raises(InputError, match=r"data\.features: expected none without --method classical"):
        check(recipe)
