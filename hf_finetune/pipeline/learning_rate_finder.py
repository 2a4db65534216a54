"""`--find-lr`: run the learning-rate range test on the model and training rows of a recipe, and propose a rate."""

import contextlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hf_finetune.data.unlabeled import with_labeled_row
from hf_finetune.errors import InputError, TrainingError
from hf_finetune.pipeline.batch_plan import micro_batch
from hf_finetune.pipeline.choose_kernels import default_kernels
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.measure_costs import isolated, short_training
from hf_finetune.pipeline.optimization import learning_rate
from hf_finetune.pipeline.run import fit_dry
from hf_finetune.training import plots, range_test
from hf_finetune.training.callbacks import read_log
from hf_finetune.training.config import Averaging
from hf_finetune.training.optim.schedule_config import Schedule
from hf_finetune.training.probe import KernelChoice
from hf_finetune.utils.core_sharing import shared_cores
from hf_finetune.utils.files import write_json
from hf_finetune.utils.plots import sparkline, write_plot

logger = logging.getLogger("hf_finetune.run")
# The Trainer evaluates at the end of an epoch. The score is not used here.
VALIDATION_ROWS = 16
TABLE_LINES = 16
MEANING = {
    "steepest": "where the smoothed loss falls fastest",
    "lowest": "where it is lowest",
    "rise": "the last rate before it stays above its start",
}


@dataclass(frozen=True)
class RateSearch:
    """A finished range test."""

    test: range_test.RangeTest
    folder: Path
    rows_per_step: int

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {**self.test.to_dict(), "folder": str(self.folder)}

    def __str__(self) -> str:
        test = self.test
        rule = "the lesser of the steepest and a tenth of the lowest"
        if test.lowest is None:
            rule = "a third of the rise; the loss did not fall in so few steps"
        indices = np.unique(np.linspace(0, len(test.rates) - 1, TABLE_LINES).round().astype(int))
        return "\n".join(
            [
                "learning rate      loss  smoothed",
                *(f"{test.rates[i]:13.2e}  {test.losses[i]:8.4f}  {test.smoothed[i]:8.4f}" for i in indices),
                f"curve         {sparkline(test.smoothed)}",
                *(f"{name:<13} {rate:.2e}, {MEANING[name]}" for name, rate in test.marks.items()),
                f"proposed      --train.learning-rate {test.proposed:.1e}: {rule}",
                f"steps         {len(test.rates)} of {range_test.STEPS}, {self.rows_per_step} training rows each",
                f"chart         {self.folder / 'find_lr.svg'}",
            ]
        )


@shared_cores()
def find_rate(run: Run, folder: Path) -> RateSearch:
    """Train for `range_test.STEPS` steps at a rate that grows from a thousandth to a thousand times the run's own.

    Everything else is as in the run: model, head, training rows, optimizer, and the ratio between the rates of
    parameter groups. The trained weights are dropped. find_lr.json, find_lr.png and find_lr.svg are written.

    Args:
        folder: for these files.

    Raises:
        InputError: whatever would stop the run, or more than one process.
        TrainingError: the loss neither falls nor rises.
    """
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
    write_plot(folder, "find_lr", plots.range_test(test, run.recipe.name))
    write_json(folder / "find_lr.json", test.to_dict())
    return RateSearch(test, folder, micro_batch(run).rows_per_step)


def _train_at_growing_rates(run: Run) -> list[tuple[float, float]]:
    """Return learning rate and loss of each step, as long as the loss is finite and the optimizer uses the rate."""
    lowest, growth = learning_rate(run) * range_test.LOWEST, range_test.growth(range_test.STEPS)
    highest = learning_rate(run) * range_test.HIGHEST
    logger.info("trying %d learning rates from %.1e to %.1e", range_test.STEPS, lowest, highest)
    with isolated() as folder:
        # The last rates may make the loss infinite, which ends the curve.
        with contextlib.suppress(TrainingError):
            fit_dry(_with_growing_rate(run), folder, KernelChoice(default_kernels(run)))
        log = folder / "log.jsonl"
        lines = read_log(log) if log.exists() else []
    # Not the logged rates, which are those of a parameter group.
    rates = [lowest * growth**step for step in range(range_test.STEPS)]
    # Above the optimizer's highest rate, larger ones change nothing.
    return [
        (rates[line["step"] - 1], line["loss"])
        for line in lines
        if np.isfinite(line.get("loss", np.nan))
        and rates[line["step"] - 1] <= run.recipe.optim.optimizer.highest_rate(line["step"])
    ]


def _with_growing_rate(run: Run) -> Run:
    """Return the run with a growing rate, on as many training rows as the test reads."""
    recipe, splits, optim = run.recipe, run.data.splits, run.recipe.optim
    rng = np.random.default_rng(recipe.train.seed)
    count = range_test.STEPS * micro_batch(run).rows_per_step
    rows = with_labeled_row(rng.permutation(len(splits.train))[:count], splits.train)
    if recipe.batching.token_budget is not None:
        rows = np.arange(len(splits.train))
    scored = np.sort(rng.permutation(len(splits.validation))[:VALIDATION_ROWS])
    if optim.head_learning_rate is not None:
        optim = replace(optim, head_learning_rate=optim.head_learning_rate * range_test.LOWEST)
    short = short_training(
        run,
        splits.train.select(rows),
        learning_rate=learning_rate(run) * range_test.LOWEST,
        lr_scheduler_type="exponential",
        warmup_steps=0.0,
        max_steps=range_test.STEPS,
    )
    schedule = Schedule(gamma=range_test.growth(range_test.STEPS))
    return short.variant(
        recipe=replace(short.recipe, optim=optim, averaging=Averaging(), schedule=schedule),
        splits=replace(short.data.splits, validation=splits.validation.select(scored)),
    )
