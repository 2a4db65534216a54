"""Features of rows as a table, in Python and from a shell."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.tiny import tiny_text_checkpoint

from hf_finetune import ClusterDistances, InputError, RowStatistics, TextCounts, WordTfidf, extract_features
from hf_finetune.cli.main import main_command
from hf_finetune.features.encoder_states import load_encoder


def frame(count: int = 30, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "id": [f"n{i}" for i in range(count)],
            "text": [" ".join(rng.choice(["good", "bad", "fine"], size=4)) for _ in range(count)],
            "label": rng.choice(["a", "b"], size=count),
            "price": rng.normal(size=count).round(3),
            "weight": rng.normal(size=count).round(3),
        }
    )


def test_rows_carry_their_columns() -> None:
    table = extract_features(frame(), extractors=(TextCounts(), RowStatistics()), features=("price", "weight"))
    assert list(table.columns[:7]) == ["row", "split", "text", "price", "weight", "id", "label"]
    assert table["label"].tolist() == frame()["label"].tolist()
    assert table["statistics:max"].to_numpy() == pytest.approx(frame()[["price", "weight"]].max(axis=1), rel=1e-6)
    assert table["counts:text:words"].to_numpy() == pytest.approx(np.full(30, np.log1p(4)))


def test_what_is_fitted_is_fitted_to_the_training_rows() -> None:
    """The components of the training rows are the same, whatever the other split holds."""
    options = {"extractors": (WordTfidf(longest=1),), "components": 2}
    alone = extract_features({"train": frame()}, **options)
    beside = extract_features({"train": frame(), "test": frame(10, 1)}, **options)
    names = [name for name in alone.columns if name.startswith("tfidf:")]
    assert len(names) == 2
    assert beside["split"].tolist() == ["train"] * 30 + ["test"] * 10
    assert np.array_equal(alone[names], beside[names][:30])


def test_files_hold_the_same(tmp_path: Path) -> None:
    options = {"extractors": (TextCounts(),), "transforms": (ClusterDistances(2),), "clusters": 3}
    table = extract_features(frame(), output=tmp_path / "f.parquet", **options)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "f.parquet"), table)
    extract_features(frame(), output=tmp_path / "f.csv", **options)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "f.csv"), table, check_dtype=False, rtol=1e-5)
    extract_features(frame(), output=tmp_path / "f.npz", **options)
    with np.load(tmp_path / "f.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["features"], table[arrays["names"].tolist()].to_numpy())
        assert arrays["cluster"].tolist() == table["cluster"].tolist()
    assert set(table["cluster"]) == {0, 1, 2}


def test_all_layers_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    load_encoder.cache_clear()
    checkpoint = str(tiny_text_checkpoint(tmp_path / "bert", "bert"))
    table = extract_features(frame(5), model=checkpoint, all_layers=True, poolings=("mean", "cls"), max_length=16)
    names = [name.rpartition(":")[0] for name in table.columns if "/" in name]
    assert list(dict.fromkeys(names)) == [
        f"bert/{layer}/{pooling}" for layer in range(4) for pooling in ("mean", "cls")
    ]


def test_from_a_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frame().rename(columns={"label": "grade"}).to_csv("rows.csv", index=False)
    flags = ["features", "rows.csv", "--label", "grade", "--extractors", "[TextCounts]"]
    flags += ["--clusters", "2", "--output", "out.parquet"]
    main_command(flags)
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == "30 rows, 11 features -> out.parquet"
    assert printed.startswith("cluster    rows  labels and nearest row")
    main_command([*flags, "--overwrite", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["rows"] == 30 and sum(cluster["rows"] for cluster in report["clusters"]) == 30
    assert all(sum(cluster["labels"].values()) == cluster["rows"] for cluster in report["clusters"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "f.txt"], "--output f.txt: expected a name ending in .csv, .parquet, .jsonl, .npz"),
        (["--output", "rows.csv"], "--output rows.csv: these are the rows"),
        (["--output", "taken.npz"], "--output taken.npz: exists already; name another file, or replace it"),
        ([], "hf-finetune features: missing --output FILE"),
        (["--output", "f.csv", "--extractors", "[Pixel]"], "--extractors"),
        (["--output", "f.csv", "--extractors", "[NumberColumns]"], "NumberColumns expects columns of numbers"),
        (
            ["--output", "f.csv", "--features", "pric"],
            "--features pric: rows.csv has no such column, did you mean 'price'",
        ),
        (["--output", "f.csv", "--split", "test"], "--split test: rows.csv has no such split"),
    ],
)
def test_refusals(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frame().to_csv("rows.csv", index=False)
    Path("taken.npz").touch()
    with pytest.raises(SystemExit) as stop:
        main_command(["features", "rows.csv", *flags])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert any(line.startswith(message) or message in line for line in error.splitlines()), error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "taken.npz"]


def test_python_refuses_an_unknown_field() -> None:
    with pytest.raises(InputError, match="layer"):
        extract_features(frame(), layer=3)
