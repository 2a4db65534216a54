"""What a run does so that few labels give no bad model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.small_runs import small_recipe, text_rows
from pyarrow.parquet import read_table
from safetensors.torch import load_file

from hf_finetune import InputError, Launch
from hf_finetune.data.loading import Splits
from hf_finetune.features import frozen_layers
from hf_finetune.pipeline import run as run_module
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.evaluate import predict
from hf_finetune.pipeline.fold_temperature import Temperature
from hf_finetune.pipeline.run import prepare, run, train_prepared
from hf_finetune.pipeline.train import TrainedRun
from hf_finetune.training.warm_start import FittedHead


@pytest.mark.usefixtures("gate_here")
def test_training_that_harms_is_undone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The head is fitted to the mean of the tokens; then a rate of 1 destroys the network."""
    recipe = small_recipe(tmp_path)
    lines = [f"{row['text']},{('bad', 'good')[row['label']]}" for row in text_rows(400)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    data = replace(recipe.data, validation_fraction=0.3)
    train = replace(recipe.train, learning_rate=1.0, keep_checkpoints=True)
    options = replace(recipe.evaluate, fold_temperature=False)
    folder = tmp_path / "run"
    result = run(replace(recipe, data=data, train=train, evaluate=options), Launch(str(folder)))
    assert result is not None
    assert result["head"]["fitted"] and result["head"]["gain_of_training"]["verdict"] == "worse"
    assert result["best"]["weights"] == "start" and result["best"]["step"] == 0
    assert [doubt["name"] for doubt in result["doubts"]].count("worse_than_start") == 1
    assert any("training made the model worse: -" in record.getMessage() for record in caplog.records)
    saved, start = load_file(folder / "model" / "model.safetensors"), folder / "checkpoints" / "start.safetensors"
    assert all((saved[name] == weight).all() for name, weight in load_file(start).items())
    choice = result["data"]["pooling_choice"]
    assert choice["chosen"] == "mean" and result["standalone"]
    model = json.loads((folder / "recipe.json").read_text())["recipe"]["model"]
    assert model["pooling"] == "default" and model["surgery"] == [
        {"type": "GatherMean", "weight": 16.0, "hidden_scale": None}
    ]


@pytest.mark.usefixtures("gate_here")
def test_every_row_is_predicted_out_of_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a network that saw no row of its group; the saved one is trained on all rows. A resumed run takes what is done."""
    recipe = small_recipe(tmp_path)
    rows = list(text_rows(60))
    lines = [f"{row['text']},{('bad', 'good')[row['label']]},{row['row'] // 12}" for row in rows]
    (tmp_path / "train.csv").write_text("\n".join(["text,label,author", *lines]) + "\n")
    data = replace(recipe.data, text="text", label="label")
    options = replace(recipe.evaluate, folds=3, repeats=2, group="author", baselines=True)
    recipe = replace(recipe, data=data, evaluate=options, train=replace(recipe.train, keep_checkpoints=True))
    folder = tmp_path / "run"
    trained: list[int] = []
    logits = run_module._trained_logits

    def counted(run: Run, row_s: Any, splits: Splits, is_held_out_N: np.ndarray) -> tuple[np.ndarray, float]:
        trained.append(len(splits.train))
        if len(trained) == 3:
            raise KeyboardInterrupt
        return logits(run, row_s, splits, is_held_out_N)

    monkeypatch.setattr(run_module, "_trained_logits", counted)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, Launch(str(folder)))
    result = run(recipe, Launch(str(folder), resume=True))
    assert result is not None
    # Authors have 12 rows each; those who share a text are in one fold.
    assert len(trained) == 7 and set(trained) <= {24, 36, 48}
    assert result["rows"] == {"train": 60, "validation": 60}
    assert result["metrics"]["validation"]["accuracy"]["n"] == 60
    section = result["out_of_fold"]
    assert (section["folds"], section["repeats"], section["group"], section["rows"]) == (3, 2, "author", 60)
    # Of predicting alone: training all folds takes many times as long.
    assert result["throughput"]["predict_rows_per_s"] > 2 * 2 * 60 / section["seconds"]
    mean = sum(np.average(of_folds) for of_folds in section["accuracy"]) / 2
    assert result["metrics"]["validation"]["accuracy"]["value"] == pytest.approx(mean, abs=0.05)
    assert result["temperature_scaling"]["rows"] == 60
    assert result["best"] == {"step": result["steps"], "weights": "last"} and result["head"]["gain_of_training"] is None
    assert result["baselines"]["linear"]["difference"]["n"] == 60
    card = (folder / "README.md").read_text()
    assert "predicted by a network that was not trained on it (3 folds, repeated 2 times, rows of one `author`" in card
    assert "the weights were chosen on the rows" not in card and "learning_curves" not in result["plots"]


@pytest.mark.usefixtures("gate_here")
def test_folds_of_a_head_share_frozen_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are computed once for all folds and the run on all rows, and predict the rows that are held out: as the whole
    network does, up to rounding. No fold starts from a head that has seen its rows."""
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    recipe = small_recipe(tmp_path)
    recipe = replace(recipe, method="head", evaluate=replace(recipe.evaluate, folds=3))
    filled: list[int] = []
    fill = frozen_layers._Source.fill

    def filling(source: frozen_layers._Source, *rest: Any) -> None:
        filled.append(len(source.rows))
        fill(source, *rest)

    monkeypatch.setattr(frozen_layers._Source, "fill", filling)
    differences: list[float] = []
    fit_dry = run_module.fit_dry

    def compared(variant: Run, *rest: Any) -> TrainedRun:
        assert not variant.start_heads
        trained = fit_dry(variant, *rest)
        logits = trained.setup.rows.validation_logits(trained.network, batch_size=8)
        whole = predict(trained.network, variant, variant.data.splits.validation)
        differences.append(float(np.abs(logits - whole).max()))
        return trained

    monkeypatch.setattr(run_module, "fit_dry", compared)
    measured: list[Run] = []

    def row_s(whole: Run) -> float:
        measured.append(whole)
        return 0.5

    monkeypatch.setattr(run_module, "measure_row", row_s)
    head = FittedHead(torch.ones(2, 32), torch.zeros(2), 1.0)
    with train_prepared(replace(prepare(recipe), start_heads=(head,)), Launch(str(tmp_path / "run"))) as trained:
        assert trained.out_of_fold is not None and len(trained.out_of_fold.rows) == 60
        # The seconds of a prediction are those of a row from its text, which are measured once.
        assert len(measured) == 1 and trained.out_of_fold.predict_s == pytest.approx(60 * 0.5)
    assert filled == [len(set(text_rows(60)["text"]))] and len(differences) == 3
    assert max(differences) < 1e-5, "float32 rounds otherwise where rows of another length share a batch"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 3, "group": "authr"}, "evaluate.group: .*train.csv has no column 'authr'"),
        ({"folds": 99}, r"evaluate\.folds 99: \d+ different rows or groups are too few; expected at most"),
    ],
)
def test_impossible_folds_are_refused(options: dict, message: str, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    with pytest.raises(InputError, match=message):
        prepare(replace(recipe, evaluate=replace(recipe.evaluate, **options)))


@pytest.mark.usefixtures("gate_here")
def test_a_folded_temperature_reaches_all_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model and adapter pass their gates with it, and predict the labels of the run without it, less sure of them."""
    recipe = replace(small_recipe(tmp_path), method="lora")
    monkeypatch.setattr(Temperature, "is_folded", True)
    tables = []
    for folds in (False, True):
        folder = tmp_path / str(folds)
        options = replace(recipe.evaluate, fold_temperature=folds)
        result = run(replace(recipe, evaluate=options), Launch(str(folder)))
        assert result is not None and result["parity"]["reload"]["ok"] and result["parity"]["adapter"]["ok"]
        tables.append(read_table(folder / "predictions.parquet").to_pandas())
    scaling, (plain, divided) = result["temperature_scaling"], tables
    assert (plain["predicted"] == divided["predicted"]).all()
    odds = [np.log(table["p:good"] / table["p:bad"]) for table in tables]
    np.testing.assert_allclose(odds[0], scaling["temperature"] * odds[1], rtol=1e-3, atol=1e-4)
    assert scaling["after"]["log_loss"] <= scaling["before"]["log_loss"]
    assert scaling["after"]["log_loss"] == pytest.approx(result["metrics"]["validation"]["log_loss"]["value"], abs=1e-4)
    assert "The logits are divided by a temperature of" in (folder / "README.md").read_text()
