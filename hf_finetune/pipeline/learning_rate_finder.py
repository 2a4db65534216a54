"""`--find-lr`: the learning-rate range test on the run's own model and training rows, and what it proposes."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hf_finetune.data.unlabeled import labeled_rows, with_labeled_row
from hf_finetune.errors import InputError, TrainingError
from hf_finetune.pipeline.batching import micro_batch
from hf_finetune.pipeline.context import PreparedRun
from hf_finetune.pipeline.kernels import default_kernels
from hf_finetune.pipeline.rehearsal import alone
from hf_finetune.pipeline.run import rehearse
from hf_finetune.pipeline.run_folder import output_folder
from hf_finetune.pipeline.update_rule import learning_rate
from hf_finetune.training import range_test
from hf_finetune.training.callbacks import read_log
from hf_finetune.training.config import Averaging
from hf_finetune.training.optim.schedule_config import Schedule
from hf_finetune.training.probe import KernelChoice
from hf_finetune.utils.files import write_json, write_text
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
class RateSearch:
    """A range test, and where its curve lies."""

    test: range_test.RangeTest
    folder: Path
    rows_per_step: int

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {**self.test.to_dict(), "folder": str(self.folder)}


def find_rate(run: PreparedRun, output: str | None = None) -> RateSearch:
    """Train for `range_test.STEPS` steps at a rate that grows from a thousandth to a thousand times the run's own.

    Everything else is the run's: model, head, rows (of the training split alone), optimizer, and the ratio between the
    rates of its groups. Nothing that was trained is kept; find_lr.svg and find_lr.json are written.

    Args:
        output: folder for the two files; default runs/<name>-find-lr-<n>.

    Raises:
        InputError: whatever would stop the run, or more than one process.
        TrainingError: the curve says nothing.
    """
    recipe = run.recipe
    if recipe.pretrain.objective is not None:
        raise InputError(
            "--find-lr: expected no pretrain.objective, after which the rate is to be found; run it, then --find-lr "
            "with --model RUN/pretrained in its place"
        )
    folder = output_folder(f"{recipe.name}-find-lr", output, resume=False)
    if run.context.processes > 1:
        raise InputError(
            f"--find-lr: expected one process, got {run.context.processes}; the rate does not depend on them"
        )
    steps = _train_at_growing_rates(run)
    test = range_test.read([rate for rate, _ in steps], [loss for _, loss in steps])
    if test is None:
        raise TrainingError(
            f"--find-lr: in {len(steps)} steps the loss neither fell nor rose; look at the data, or take larger steps"
        )
    write_text(folder / "find_lr.svg", _chart(test, recipe.name))
    write_json(folder / "find_lr.json", test.to_dict())
    return RateSearch(test, folder, micro_batch(run).rows_per_step)


def _train_at_growing_rates(run: PreparedRun) -> list[tuple[float, float]]:
    """Learning rate and loss of each step, while the loss is a number and the rate one that the optimizer takes."""
    lowest, growth = learning_rate(run) * range_test.LOWEST, range_test.growth(range_test.STEPS)
    highest = learning_rate(run) * range_test.HIGHEST
    logger.info("trying %d learning rates from %.1e to %.1e", range_test.STEPS, lowest, highest)
    with alone() as folder:
        # The rate may grow until the loss is not a number: the curve ends before.
        with contextlib.suppress(TrainingError):
            rehearse(_growing(run), folder, KernelChoice(default_kernels(run)))
        log = folder / "log.jsonl"
        lines = read_log(log) if log.exists() else []
    # Not as the log has it: that is a group's, and no group needs to learn at the run's own rate.
    rates = [lowest * growth**step for step in range(range_test.STEPS)]
    # Above the optimizer's highest a rate does no more than that one.
    return [
        (rates[line["step"] - 1], line["loss"])
        for line in lines
        if np.isfinite(line.get("loss", np.nan))
        and rates[line["step"] - 1] <= run.recipe.optim.optimizer.highest_rate(line["step"])
    ]


def _growing(run: PreparedRun) -> PreparedRun:
    """The run with a rate that grows, on as many training rows as it reads."""
    recipe, splits, optim = run.recipe, run.data.splits, run.recipe.optim
    rng = np.random.default_rng(recipe.train.seed)
    count = range_test.STEPS * micro_batch(run).rows_per_step
    rows = with_labeled_row(rng.permutation(len(splits.train))[:count], splits.train)
    if recipe.batching.token_budget is not None:
        rows = np.arange(len(splits.train))
    scored = np.sort(rng.permutation(len(splits.validation))[:VALIDATION_ROWS])
    train = splits.train.select(rows)
    if optim.head_learning_rate is not None:
        optim = replace(optim, head_learning_rate=optim.head_learning_rate * range_test.LOWEST)
    growing = replace(
        recipe.train,
        learning_rate=learning_rate(run) * range_test.LOWEST,
        lr_scheduler_type="exponential",
        warmup_steps=0.0,
        max_steps=range_test.STEPS,
        logging_steps=1,
        early_stopping_patience=None,
        head_warm_start=recipe.train.head_warm_start and len(set(labeled_rows(train)["label"][:])) > 1,
    )
    return run.varied(
        splits=replace(splits, train=train, validation=splits.validation.select(scored)),
        recipe=replace(
            recipe,
            optim=optim,
            averaging=Averaging(),
            schedule=Schedule(gamma=range_test.growth(range_test.STEPS)),
            train=growing,
        ),
    )


def _chart(test: range_test.RangeTest, name: str) -> str:
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


def describe(search: RateSearch) -> str:
    """The curve as a table, and the proposal with its reason."""
    test = search.test
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
            f"steps         {len(test.rates)} of {range_test.STEPS}, {search.rows_per_step} training rows each",
            f"chart         {search.folder / 'find_lr.svg'}",
        ]
    )
