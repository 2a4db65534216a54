"""What the head reads where `model.pooling` is auto."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.small_runs import recipe_of_a_word as recipe_of

from hf_finetune import Chunk
from hf_finetune.models.surgery.gather_mean import GatherMean
from hf_finetune.pipeline import choose_pooling
from hf_finetune.pipeline.run import prepare


def judged(monkeypatch: pytest.MonkeyPatch, verdict: str) -> None:
    """Replace the comparison on frozen features."""
    difference = {"value": 0.1, "low": 0.0, "high": 0.2, "metric": "accuracy", "verdict": verdict}
    measured: dict[str, Any] = {"mean": {"accuracy": 0.8}, "default": {"accuracy": 0.7}, "difference": difference}
    monkeypatch.setattr(choose_pooling, "_compare", lambda *_: (measured, 144))


def test_the_mean_is_compared_on_frozen_features(tmp_path: Path) -> None:
    """The class is a word of the text, which the mean of a random network's states holds, and its first token hardly."""
    prepared = prepare(recipe_of(tmp_path))
    choice, model = prepared.pooling_choice, prepared.recipe.model
    assert choice is not None and choice["rows"] == 145
    assert choice["measured"]["mean"]["accuracy"] > choice["measured"]["default"]["accuracy"]
    assert choice["chosen"] == "mean" and (model.pooling, model.surgery) == ("default", (GatherMean(),))
    assert type(prepared.model.network).__name__ == "BertForSequenceClassification"
    assert any(
        note.startswith("model.pooling auto: mean: accuracy of a head on frozen features") for note in prepared.notes
    )


def test_the_mean_must_be_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Except for a sentence encoder, which was trained to be read so; there it must not be worse."""
    judged(monkeypatch, "undecided")
    recipe = recipe_of(tmp_path)
    assert prepare(recipe).recipe.model == replace(recipe.model, pooling="default")
    (tmp_path / "encoder").mkdir()
    recipe = recipe_of(tmp_path / "encoder", sentence_encoder=True)
    assert prepare(recipe).recipe.model.surgery == (GatherMean(),)
    judged(monkeypatch, "worse")
    assert prepare(recipe).recipe.model.surgery == ()


def test_chunks_have_a_head_that_reads_the_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is saved as encoder/ in any case, so that no layer gathers the mean."""
    judged(monkeypatch, "better")
    recipe = recipe_of(tmp_path)
    assert recipe.data.kind == "text"
    prepared = prepare(replace(recipe, data=replace(recipe.data, long=Chunk())))
    assert (prepared.recipe.model.pooling, prepared.recipe.model.surgery) == ("mean", ())


def test_all_processes_take_what_the_main_one_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or they would train different networks, where rounding differs."""
    judged(monkeypatch, "worse")
    monkeypatch.setattr(choose_pooling, "broadcast_object_list", lambda of_this_process: [not of_this_process[0]])
    assert prepare(recipe_of(tmp_path)).recipe.model.surgery == (GatherMean(),)


def test_the_mean_must_not_cost_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MPNet's position biases forbid an even attention. The note says what takes its place."""
    judged(monkeypatch, "better")
    prepared = prepare(recipe_of(tmp_path, "mpnet", sentence_encoder=True))
    assert (prepared.recipe.model.pooling, prepared.recipe.model.surgery) == ("default", ())
    assert any("encoder/ and head.safetensors in place of model/" in note for note in prepared.notes)


def test_the_mean_must_not_cost_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter loads on the checkpoint as it is, without a layer on top."""
    judged(monkeypatch, "better")
    recipe = recipe_of(tmp_path, sentence_encoder=True)
    prepared = prepare(replace(recipe, method="lora"))
    assert prepared.recipe.model == replace(recipe.model, pooling="default")
    assert any("--model.surgery '[GatherMean]' reads the mean" in note for note in prepared.notes)


def test_few_rows_decide_nothing(tmp_path: Path) -> None:
    """The checkpoint does."""
    recipe = recipe_of(tmp_path, rows=60)
    prepared = prepare(recipe)
    assert prepared.pooling_choice is None and prepared.recipe.model == replace(recipe.model, pooling="default")
    (tmp_path / "encoder").mkdir()
    choice = prepare(recipe_of(tmp_path / "encoder", rows=60, sentence_encoder=True)).pooling_choice
    assert choice is not None and choice["chosen"] == "mean" and choice["measured"] is None


def test_a_named_pooling_is_not_chosen(tmp_path: Path) -> None:
    """Recipes of earlier versions name it, too: default."""
    recipe = recipe_of(tmp_path)
    for model in (replace(recipe.model, pooling="default"), replace(recipe.model, head="linear")):
        prepared = prepare(replace(recipe, model=model))
        assert prepared.pooling_choice is None and prepared.recipe.model.surgery == ()


def test_method_top_trains_as_many_layers_besides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new layer is one of the highest."""
    judged(monkeypatch, "better")
    prepared = prepare(replace(recipe_of(tmp_path), method="top"))
    assert prepared.recipe.model.top_layers == 3
