"""`--find-lr`: the learning-rate range test on the run's own model and training rows, and what it proposes."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hf_finetune.config.recipe import Averaging, Recipe
from hf_finetune.data.unlabeled import labeled_rows, with_labeled_row
from hf_finetune.errors import InputError, TrainingError
from hf_finetune.pipeline import run
from hf_finetune.pipeline.context import Prepared
from hf_finetune.pipeline.plan import alone
from hf_finetune.pipeline.run_folder import output_folder
from hf_finetune.pipeline.setup import prepare
from hf_finetune.training import range_test
from hf_finetune.training.callbacks import read_log
from hf_finetune.training.optim.config import highest_rate
from hf_finetune.training.optim.schedule_config import Schedule
from hf_finetune.training.probe import Choice
from hf_finetune.utils.codec import write_json, write_text
from hf_finetune.utils.plots import line_chart, sparkline

logger = logging.getLogger("hf_finetune.run")
# The Trainer scores an epoch; here nobody asks for the score.
VALIDATION_ROWS = 16
LINES = 16
MEANING = {
    "steepest": "where the smoothed loss falls fastest",
    "lowest": "where it is lowest",
    "rise": "the last rate before it stays above where it began",
}


@dataclass(frozen=True)
class Found:
    """A range test, and where its curve lies."""

    test: range_test.RangeTest
    folder: Path
    rows_per_step: int

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {**self.test.to_dict(), "folder": str(self.folder)}


def find_rate(recipe: Recipe, output: str | None = None) -> Found:
    """Train for `range_test.STEPS` steps at a rate that grows from a thousandth to a thousand times the run's own.

    Everything else is the run's: model, head, rows (of the training split alone), optimiser, and the ratio between the
    rates of its groups. Nothing that was trained is kept; find_lr.svg and find_lr.json are written.

    Args:
        output: folder for the two files; default runs/<name>-find-lr-<n>.

    Raises:
        InputError: whatever would stop the run, or more than one process.
        TrainingError: the curve says nothing.
    """
    if recipe.pretrain.objective is not None:
        raise InputError(
            "--find-lr: expected no pretrain.objective, after which the rate is to be found; run it, then --find-lr with --model "
            "RUN/pretrained in its place"
        )
    folder = output_folder(f"{recipe.name}-find-lr", output, resume=False)
    prepared = prepare(recipe)
    if prepared.processes > 1:
        raise InputError(f"--find-lr: expected one process, got {prepared.processes}; the rate does not depend on them")
    small = _growing(prepared)
    logger.info(
        "trying %d learning rates from %.1e to %.1e",
        range_test.STEPS,
        prepared.learning_rate * range_test.LOWEST,
        prepared.learning_rate * range_test.HIGHEST,
    )
    with tempfile.TemporaryDirectory(prefix="hf-finetune-find-lr-") as temporary, alone(Path(temporary)):
        # The rate may grow until the loss is not a number: the curve ends before.
        with contextlib.suppress(TrainingError):
            run.rehearse(small, Path(temporary), Choice(prepared.kernels))
        log = Path(temporary) / "log.jsonl"
        lines = read_log(log) if log.exists() else []
    # Not as the log has it: that is a group's, and no group needs to learn at the run's own rate.
    lowest, growth = prepared.learning_rate * range_test.LOWEST, range_test.growth(range_test.STEPS)
    rates = [lowest * growth**step for step in range(range_test.STEPS)]
    # Above the optimiser's highest a rate does no more than that one.
    steps = [
        (rates[line["step"] - 1], line["loss"])
        for line in lines
        if np.isfinite(line.get("loss", np.nan))
        and rates[line["step"] - 1] <= highest_rate(recipe.optim.optimizer, line["step"])
    ]
    test = range_test.read([rate for rate, _ in steps], [loss for _, loss in steps])
    if test is None:
        raise TrainingError(
            f"--find-lr: in {len(steps)} steps the loss neither fell nor rose; look at the data, or take more rows a step"
        )
    write_text(folder / "find_lr.svg", _picture(test, recipe.name))
    write_json(folder / "find_lr.json", test.to_dict())
    return Found(test, folder, prepared.micro_batch[2])


def _growing(prepared: Prepared) -> Prepared:
    """The run with a rate that grows, on as many training rows as it reads."""
    recipe, splits, optim = prepared.recipe, prepared.splits, prepared.recipe.optim
    rng = np.random.default_rng(recipe.train.seed)
    rows = with_labeled_row(
        rng.permutation(len(splits.train))[: range_test.STEPS * prepared.micro_batch[2]], splits.train
    )
    if recipe.batching.token_budget is not None:
        rows = np.arange(len(splits.train))
    scored = np.sort(rng.permutation(len(splits.validation))[:VALIDATION_ROWS])
    train = splits.train.select(rows)
    if optim.head_learning_rate is not None:
        optim = replace(optim, head_learning_rate=optim.head_learning_rate * range_test.LOWEST)
    return replace(
        prepared,
        splits=replace(splits, train=train, validation=splits.validation.select(scored)),
        recipe=replace(
            recipe,
            optim=optim,
            averaging=Averaging(),
            schedule=Schedule(gamma=range_test.growth(range_test.STEPS)),
            train=replace(
                recipe.train,
                learning_rate=prepared.learning_rate * range_test.LOWEST,
                lr_scheduler_type="exponential",
                warmup_steps=0.0,
                max_steps=range_test.STEPS,
                logging_steps=1,
                early_stopping_patience=None,
                head_warm_start=recipe.train.head_warm_start and len(set(labeled_rows(train)["label"][:])) > 1,
            ),
        ),
    )


def _picture(test: range_test.RangeTest, name: str) -> str:
    return line_chart(
        {"loss": (test.rates, test.losses), "smoothed": (test.rates, test.smoothed)},
        title=f"{name}: loss while the learning rate grows",
        x_label="learning rate",
        log_x=True,
        marks={"proposed": test.proposed, **_places(test)},
    )


def _places(test: range_test.RangeTest) -> dict[str, float]:
    places = {"steepest": test.steepest, "lowest": test.lowest, "rise": test.rise}
    return {name: rate for name, rate in places.items() if rate is not None}


def describe(found: Found) -> str:
    """The curve as a table, and the proposal with its reason."""
    test = found.test
    rule = "the lesser of the steepest and a tenth of the lowest"
    if test.lowest is None:
        rule = "a third of the rise; the loss did not fall in so few steps"
    shown = np.unique(np.linspace(0, len(test.rates) - 1, LINES).round().astype(int))
    return "\n".join(
        [
            "learning rate      loss  smoothed",
            *(f"{test.rates[i]:13.2e}  {test.losses[i]:8.4f}  {test.smoothed[i]:8.4f}" for i in shown),
            f"curve         {sparkline(test.smoothed)}",
            *(f"{name:<13} {rate:.2e}, {MEANING[name]}" for name, rate in _places(test).items()),
            f"proposed      --train.learning-rate {test.proposed:.1e}: {rule}",
            f"steps         {len(test.rates)} of {range_test.STEPS}, {found.rows_per_step} rows each, of the training rows alone",
            f"picture       {found.folder / 'find_lr.svg'}",
        ]
    )
