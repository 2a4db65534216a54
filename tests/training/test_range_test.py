"""The range test's arithmetic by hand, its curve from a real run, and images that can be read."""

import json
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers.small_runs import small_recipe
from helpers.tiny import tiny_text_checkpoint

from hf_finetune import Model, Optim, Recipe
from hf_finetune.cli.main import main_command
from hf_finetune.errors import InputError
from hf_finetune.pipeline import learning_rate_finder, plan
from hf_finetune.pipeline.load_data import load_splits
from hf_finetune.pipeline.run import prepare
from hf_finetune.training import range_test
from hf_finetune.training.optim.config import Adafactor
from hf_finetune.training.range_test import growth, read, smooth


def test_smoothing_by_hand() -> None:
    assert smooth([1.0, 2.0, 6.0, 3.0], width=3).tolist() == pytest.approx([1.5, 3.0, 11 / 3, 4.5])
    assert smooth([3.0] * 20).tolist() == pytest.approx([3.0] * 20)


def test_growth() -> None:
    """From a thousandth to a thousand times, in two steps: a thousand each."""
    assert growth(3) == pytest.approx(1000)


def test_the_proposal_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is flat at first, falls most at one place, is lowest at another and explodes: unsmoothed, so that one
    sees it. The first ten are 1 but for one easy batch."""
    monkeypatch.setattr(range_test, "smooth", lambda losses: np.asarray(losses))
    rates = [10.0 ** (step / 2 - 10) for step in range(24)]
    flat = [1, 1, 0.9, 1, 1, 1, 1, 1, 1, 1]
    result = read(rates, [*flat, 1, 1, 0.99, 0.9, 0.6, 0.3, 0.2, 0.1, 0.11, 0.12, 0.3, 0.5, 5, 9])
    assert result is not None
    assert result.rates == tuple(rates[:21]), "0.5 is more than 4 times 0.1"
    assert result.steepest == pytest.approx(rates[14]) and result.lowest == pytest.approx(rates[17])
    assert result.proposed == pytest.approx(rates[14]) and result.to_dict()["proposed"] == result.proposed
    late = read(rates, [*flat, 1, 1, 0.99, 0.98, 0.97, 0.96, 0.95, 0.2, 0.19, 0.3, 0.35, 2, 5, 9])
    assert late is not None and late.lowest == pytest.approx(rates[18])
    assert late.proposed == pytest.approx(rates[16]), "a tenth of the lowest: the steepest is too near"


def test_a_loss_that_only_rises_proposes_a_third_of_where_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ten losses are 1 and 1.2 in turn: mean 1.1, deviation 0.105; it stays above 1.205 from step 25 on."""
    monkeypatch.setattr(range_test, "smooth", lambda losses: np.asarray(losses))
    rates = [10.0 ** (step / 5 - 8) for step in range(30)]
    losses = [1.0, 1.2] * 5 + [1.1] * 12 + [1.3, 1.1, 1.2, 1.3, 1.4, 2.0, 3.0, 9.0]
    result = read(rates, losses)
    assert result is not None and result.steepest is None and result.lowest is None
    assert result.rise == pytest.approx(rates[24]) and result.proposed == pytest.approx(rates[24] / 3)


def test_a_curve_that_says_nothing() -> None:
    """Too short, or falling by no more than the batches differ: 0.02 where two standard errors are 0.067."""
    assert read([1e-3], [1.0]) is None and read([], []) is None
    rates = np.geomspace(1e-5, 1, 40)
    noisy = [1 + 0.1 * (-1) ** step - 0.02 * (step > 20) for step in range(40)]
    assert read(rates, noisy) is None
    fallen = read(rates, [loss - 0.2 * (step > 20) for step, loss in enumerate(noisy)])
    assert fallen is not None and fallen.lowest is not None and fallen.rise is None


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("input"))


@pytest.mark.usefixtures("gate_here")
def test_the_run_is_tried_at_growing_rates_and_nothing_is_kept(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 steps from 3e-6 to 3; a second test gives the same numbers, to the bit. The test split is never read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(range_test, "STEPS", 60)
    seen = []
    fit_dry = learning_rate_finder.fit_dry

    def watched(prepared, *options):
        seen.append(prepared)
        trained = fit_dry(prepared, *options)
        seen.append([group["initial_lr"] for group in trained.trainer.optimizer.param_groups])
        return trained

    monkeypatch.setattr(learning_rate_finder, "fit_dry", watched)
    recipe = replace(
        small,
        optim=Optim(head_learning_rate=3e-2),
        train=replace(small.train, head_warm_start=False, learning_rate=3e-3),
    )
    result = learning_rate_finder.find_rate(prepare(recipe), tmp_path / "out")
    assert seen[0].recipe.train.max_steps == 60 and set(seen[0].data.splits.train["text"]) <= set(
        load_splits(small.data).train["text"][:]
    )
    assert len(seen) == 2, "the rate grew until the loss was not a number"
    assert sorted(set(seen[1])) == pytest.approx([3e-6, 3e-5]), "the head's rate grows by the same factor"
    rates = result.test.rates
    assert rates[0] == pytest.approx(3e-6) and rates[1] / rates[0] == pytest.approx(growth(60))
    assert all(math.isfinite(loss) for loss in result.test.losses) and rates[0] < result.test.proposed < rates[-1]
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["find_lr.json", "find_lr.png", "find_lr.svg"]
    assert json.loads((result.folder / "find_lr.json").read_text())["proposed"] == result.test.proposed
    ElementTree.parse(result.folder / "find_lr.svg")
    assert f"--train.learning-rate {result.test.proposed:.1e}" in str(result)
    assert learning_rate_finder.find_rate(prepare(recipe), tmp_path / "out").test == result.test


def test_the_rates_are_the_run_s_own_where_no_group_has_them(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a decay by layers and a head of its own rate, nothing of a RoBERTa learns at the run's rate."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(range_test, "STEPS", 30)
    recipe = replace(
        small,
        model=Model(str(tiny_text_checkpoint(tmp_path / "roberta", "roberta"))),
        optim=Optim(head_learning_rate=3e-2, layer_decay=0.9),
        train=replace(small.train, head_warm_start=False, learning_rate=3e-3),
    )
    assert learning_rate_finder.find_rate(prepare(recipe), tmp_path / "out").test.rates[0] == pytest.approx(3e-6)


def test_rates_that_the_optimizer_does_not_reach_are_not_reported(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adafactor takes no more than 1 / sqrt(step): of 60 steps from 5e-4 to 500 the 26th is the last below it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(range_test, "STEPS", 60)
    recipe = replace(
        small,
        optim=Optim(optimizer=Adafactor()),
        train=replace(small.train, head_warm_start=False, learning_rate=0.5),
    )
    rates = learning_rate_finder.find_rate(prepare(recipe), tmp_path / "out").test.rates
    assert len(rates) == 26 and rates[-1] == pytest.approx(5e-4 * growth(60) ** 25)
    assert rates[-1] < 26**-0.5 and rates[-1] * growth(60) > 27**-0.5


def test_plan_draws_the_rates_of_each_group(small: Recipe, tmp_path: Path) -> None:
    recipe = replace(small, optim=Optim(layer_decay=0.5))
    made = plan.plan(prepare(recipe), plot=tmp_path / "rates.svg")
    assert made.schedule.name == "linear"
    assert made.schedule.learning_rates == {
        "the rest": 1e-4,
        "layer 2": 5e-5,
        "layer 1": 2.5e-5,
        "layer 0": 1.25e-5,
        "embeddings": 6.25e-6,
    }
    drawn = (tmp_path / "rates.svg").read_text()
    assert "layer 0" in drawn and "embeddings" in drawn
    output = str(made)
    assert f"schedule      linear {made.schedule.curve}" in output and "embeddings 6.25e-06" in output


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["plan", "quickstart", "--find-lr"], "--find-lr: "),
        (
            ["plan", "quickstart", "--plot-schedule", "a.png"],
            "--plot-schedule a.png: expected a name that ends in .svg",
        ),
        (["run", "quickstart", "--plot-schedule", "a.svg"], "--plot-schedule: "),
        (["run", "quickstart", "--find-lr", "--num-processes", "2"], "--num-processes 2: "),
        (["run", "quickstart", "--find-lr", "--resume"], "--resume: "),
        (["run", "quickstart", "--find-lr", "--pretrain.objective", "{type: MaskedLanguage}"], "--find-lr: "),
    ],
)
def test_flags_in_the_wrong_place(command: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main_command(command)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_more_than_one_process_is_refused(small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepare(small)
    of_two = replace(run, context=replace(run.context, processes=2))
    with pytest.raises(InputError, match="--find-lr: expected one process, got 2"):
        learning_rate_finder.find_rate(of_two, tmp_path / "out")
