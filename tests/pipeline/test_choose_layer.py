"""Which layer a head on frozen features reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.small_runs import recipe_of_a_lower_layer
from transformers import AutoModelForSequenceClassification

from hf_finetune import Classifier, Recipe
from hf_finetune.config.recipe import Launch
from hf_finetune.models.surgery.gather_mean import GatherMean
from hf_finetune.models.surgery.layers import KeepLayers
from hf_finetune.pipeline import choose_layer as module
from hf_finetune.pipeline.choose_layer import LayerChoice, choose_layer, layers_of_depth
from hf_finetune.pipeline.run import load_input, prepare
from hf_finetune.search.run import run


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A head, for which the layer below the top one says most."""
    return replace(recipe_of_a_lower_layer(tmp_path), method="head")


def test_layers_that_are_compared() -> None:
    assert [layers_of_depth(depth) for depth in (3, 4, 6, 12)] == [[3], [4, 3], [6, 5, 4], [12, 10, 8]]


@pytest.mark.usefixtures("gate_here")
def test_the_layer_with_the_least_log_loss_is_read(recipe: Recipe, tmp_path: Path) -> None:
    """The run saves a network that ends there, of the stock class."""
    result = run(recipe, Launch(str(tmp_path / "out")))
    assert result is not None
    choice = result["data"]["pooling_choice"]["layer"]
    assert (choice["chosen"], choice["layers"], choice["rows"]) == (3, 4, 145)
    # The classes are as frequent.
    assert choice["log_loss"]["4"] == pytest.approx(np.log(2), abs=0.01) and choice["log_loss"]["3"] < 0.65
    assert choice["entropy"] == pytest.approx(np.log(2), abs=0.001)
    assert any(note.startswith("model.pooling auto: layer 3 of 4: log loss of heads") for note in result["notes"])
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "model")
    # And the layer that gathers the mean.
    assert type(network).__name__ == "BertForSequenceClassification" and network.config.num_hidden_layers == 4
    assert list(Classifier.load(str(tmp_path / "out")).predict(["good", "bad"])) == ["good", "bad"]


def test_features_that_say_less_than_the_frequencies_of_the_labels_explain_nothing() -> None:
    choice = LayerChoice(3, 4, {"4": 0.75, "3": 0.70}, 0.69, rows=100, seconds=1.0)
    assert not choice.explains and replace(choice, log_loss={"4": 0.75, "3": 0.68}).explains


def test_the_features_are_those_of_the_network_without_the_layers_above(recipe: Recipe) -> None:
    whole = load_input(recipe, layer_rows=0)
    lower, choice = choose_layer(whole, most_rows=60)
    assert choice is not None and choice.is_lower and choice.rows == 60 and choice.cost == 4 / 5
    assert lower.context.recipe.model.surgery == (KeepLayers(first=3), GatherMean(hidden_scale=0.1))
    rows = whole.data.splits.train.select(range(20))
    means = [
        module._means_of_layers(each, module.build_model(each.context, each.data).network, rows, [3])[3]
        for each in (whole, lower)
    ]
    assert means[1] == pytest.approx(means[0], abs=1e-5) and np.ptp(means[0], axis=0).min() > 0.01


def test_all_processes_take_what_the_main_one_chooses(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or they would train different networks, where rounding differs."""
    monkeypatch.setattr(module, "broadcast_object_list", lambda _: [4])
    prepared = prepare(recipe)
    assert prepared.recipe.model.surgery == (GatherMean(),)
    assert any(note.startswith("model.pooling auto: the top layer of 4") for note in prepared.notes)


def test_where_there_is_no_choice(recipe: Recipe, tmp_path: Path) -> None:
    """Other methods train all layers; surgery that is named has its layer; rows of a group, as of an author, stay together;
    of few rows nothing can be said."""
    named = replace(recipe.model, surgery=(GatherMean(),))
    grouped = replace(recipe, evaluate=replace(recipe.evaluate, folds=3, group="text"))
    for other in (replace(recipe, method="full"), replace(recipe, model=named), grouped):
        assert prepare(other).recipe.model.surgery == (GatherMean(),)
    lines = (tmp_path / "train.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join(lines[:11]) + "\n")
    assert choose_layer(load_input(recipe))[1] is None


def test_with_folds_all_rows_are_compared(recipe: Recipe) -> None:
    """They are what the result trains on."""
    loaded = load_input(replace(recipe, evaluate=replace(recipe.evaluate, folds=3)), layer_rows=0)
    _, choice = choose_layer(loaded)
    assert choice is not None and choice.rows == 160


def test_repeats_of_a_row_are_on_one_side() -> None:
    """Five folds of few rows, two of many, and no more than there are different rows."""
    labels_N = np.arange(40) % 2
    assert module._count_folds(labels_N, np.arange(40)) == 5
    assert module._count_folds(labels_N, np.arange(40) % 3) == 3
    assert module._count_folds(np.arange(4000) % 2, np.arange(4000)) == 2
