"""What a rung costs: seconds of its steps, measured on a few, and of what surrounds them."""

import gc
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from datasets import Dataset

from hf_finetune.data.labels import is_labeled, labels_of
from hf_finetune.data.word_inputs import encoded_of
from hf_finetune.pipeline import choose_layer
from hf_finetune.pipeline.batch_plan import step_batches
from hf_finetune.pipeline.choose_kernels import default_kernels
from hf_finetune.pipeline.classical.run import TIMED_ROWS
from hf_finetune.pipeline.context import Run, RunInput
from hf_finetune.pipeline.measure_costs import isolated, rows_of_steps, short_training, step_sizes, step_times
from hf_finetune.pipeline.measure_row import MOST_TIMED_S, measure_row
from hf_finetune.pipeline.parity import gate_seconds
from hf_finetune.pipeline.run import fit_dry
from hf_finetune.search.ladder.judgement import FEW_ROWS
from hf_finetune.training.callbacks import LOG, read_log
from hf_finetune.training.probe import KernelChoice
from hf_finetune.training.warm_start import MOST_ROWS as MOST_FITTED
from hf_finetune.utils.console import Progress

logger = logging.getLogger("hf_finetune.run")
BUILD_S, WRITE_S = 1.5, 2.0
"""Seconds to build a network, and to save it with its card and plots."""
ROWS_READ = 64
"""Validation rows that an encoder reads to find what a head reads, before it is joined with a linear model."""
CLASS_S = 0.02
"""What a class takes beside the rows: its intervals and plots, and its part of a fit. Runs of 30 s on 77 classes were
1.5 s late without it."""
VALIDATED_ROWS = 32
PASSES = 3.0
"""What training on a row costs, in passes of its precision, by which the features of a head are computed, too."""
LEAST_ROWS = 256
"""Fewest training rows of the head, whatever the budget."""
RESERVE = 0.08
"""Share of the time of a rung that plans leave free, as measurements are imprecise."""
LEAST_EPOCHS = 0.25
"""A shorter training has seen too few rows to be worth its time, unless they are `ENOUGH_ROWS`."""
TIMED_STEPS = 6
"""Steps that are timed, at evenly spaced quantiles of their size."""
TRAINED_ROW, TRAINED_ROW_IN_HALF = 3.5, 1.8
"""What training on a row costs at most, in predictions of a row in float32, by full fine-tuning; and in mixed
precision."""
MEASURED_FROM_S = 45.0
"""With less time left, steps are not measured, which takes seconds: `TRAINED_ROW` is taken for full fine-tuning."""
HEAD_SHARE = 0.1
"""Share of the time that the features of a head take at most, where full fine-tuning follows it."""
DOUBTED_HEAD_S = 5.0
"""Seconds that the features of a head take at most, where nothing beats the constant so far, and those of the rows by
which its layer was chosen explain nothing: 4,000 rows with random labels took 79 s."""
JUDGED_SHARE = 0.1
"""Share of the time of training that judging a head takes at most."""
VALIDATED_SHARE, TESTED_SHARE = 0.3, 0.2
"""Shares of the time that a network takes at most to predict the rows that judge it, and those of test. Of more rows a
part is drawn, `FEW_ROWS` at least."""
ROW_SHARE = 0.03
"""Share of the time that measuring a row takes, about."""
LAYER_SHARE = 0.03
"""Share of the time in which rows are read to compare layers."""
ENOUGH_COMPARED = 200
"""Rows without which layers are not compared, if there are so many: chance would choose."""
MANY_OUTPUTS, MANY_OUTPUTS_FROM_S = 20, 240.0
"""Classes beyond which it takes more time than that of the rows, and so much of it: with 77 the fits took 4 of 30
seconds, and the top layer was the best one by far."""
HEAD_COST, MANY_SEEN = 0.15, 2_000
"""Share of the time from which a head is left, if full fine-tuning sees so many rows of each class: a head is then
neither the result nor needed as a start. Of 120 s on 8,482 sentences of two classes it took 20, and lost to the linear
model."""
LEAST_SEEN = 200
"""Rows of a class that full fine-tuning sees at least, if most of the time is to be its own. With fewer, a head on
frozen features of all rows is better: on 77 classes the stock Trainer had .619 after 88 rows of each and .910 after
346, a head .913."""
ENOUGH_ROWS = 2_000
"""With so many, and `LEAST_SEEN` of each class, a training is worth its time, whatever share of the training rows they
are: of 8,482 sentences of two classes MiniLM had .730 after 1,024 rows and .821 after 2,144, a linear model .792."""
LEAST = {"full": 0.6, "lora": 0.45, "top": 0.06}
"""The least that training on a row costs by a method, as a share of what full fine-tuning usually costs. A method that
does not fit even then is not measured."""


@dataclass(frozen=True)
class RungCost:
    """Seconds of a rung."""

    epoch_s: float
    """The steps of an epoch, and the validation after it."""
    before_s: float
    """Building the network."""
    after_s: float
    """Saving and scoring."""
    steps: int
    """Optimizer steps of an epoch."""
    trainings: int = 1
    """More with folds, of which all seconds are the sum."""
    once_s: float = 0.0
    """Caching of frozen layers, which folds share."""
    least_epochs: float = LEAST_EPOCHS
    """A shorter training is not worth its time."""

    def seconds(self, epochs: float) -> float:
        """Return the seconds of a rung of so many epochs."""
        return self.around_s + epochs * self.epoch_s

    @property
    def around_s(self) -> float:
        """Seconds of everything but the epochs."""
        return self.before_s + self.once_s + self.after_s

    def epochs_within(self, seconds: float) -> float:
        """Return the epochs that fit into a time, in whole steps; 0 if none do."""
        steps = int(max(0.0, seconds - self.around_s) / self.epoch_s * self.steps + 1e-6)
        return steps / self.steps


@dataclass(frozen=True)
class Scoring:
    """Seconds of what follows every training, measured on the head."""

    row_s: float
    """Predict a row."""
    rows: dict[str, int]
    """Rows of each split."""
    trained_row: float
    """What training on a row costs, in predictions of a row."""
    gate_s: float = 0.0
    """The gate, as far as the budget counts it."""
    outputs: int = 1
    """Classes, tags or targets."""
    later_s: float = 0.0
    """Fitting and writing a classical model at the end, see `decisions.writes_later`."""

    @property
    def after_s(self) -> float:
        """Validate, score the validation and test rows, save, verify, and document."""
        # The validation rows twice: at the end of the training, in its precision, and to be judged.
        validated = self.rows.get("validation", 0) * (1 + self._pass)
        return (validated + self.rows.get("test", 0)) * self.row_s + WRITE_S + self.gate_s + self.later_s

    def rows_scored(self, left_s: float) -> dict[str, int]:
        """Return how many rows of each split a network can score, see `VALIDATED_SHARE`."""
        seconds = {"validation": VALIDATED_SHARE * left_s / (1 + self._pass), "test": TESTED_SHARE * left_s}
        # Whole hundreds: what was measured differs a little from run to run.
        return {name: max(FEW_ROWS, int(share_s / self.row_s) // 100 * 100) for name, share_s in seconds.items()}

    @property
    def judged_s(self) -> float:
        """Build a network, and predict the validation rows."""
        return BUILD_S + self.rows.get("validation", 0) * self.row_s

    @property
    def least_head_s(self) -> float:
        """What a head on the fewest rows takes; the features of the validation rows are read in place of one of their
        passes."""
        rows = min(self.rows["train"], LEAST_ROWS)
        return BUILD_S + rows * self._pass * self.row_s + self.after_s

    def joined_s(self, linear_s: float, *, later: bool) -> float:
        """Return what joining the linear model with the head takes.

        Args:
            linear_s: what the linear model took, which is fitted again.
            later: whether it is written at the end, for which there is time: then two builds and a few rows are left,
                and what each class takes.
        """
        # The encoder reads some rows to find what the head reads, and some to measure its speed.
        read_s = (ROWS_READ + TIMED_ROWS) * self.row_s
        if later:
            return 2 * BUILD_S + read_s + self.outputs * CLASS_S
        return BUILD_S + read_s + self.rows.get("test", 0) * self.row_s + linear_s + WRITE_S + self.gate_s

    @property
    def fit_s(self) -> float:
        """The features of the rows to which a training fits its head, where it starts from no other one."""
        return min(self.rows["train"], MOST_FITTED) * self._pass * self.row_s

    @property
    def _pass(self) -> float:
        """What a pass in the precision of training costs, in predictions of a row."""
        return min(1.0, self.trained_row / PASSES)

    @property
    def least_epochs(self) -> float:
        """See `RungCost.least_epochs`: of many rows, a small share is enough."""
        enough = max(ENOUGH_ROWS, LEAST_SEEN * self.outputs)
        return min(LEAST_EPOCHS, enough / self.rows["train"])

    def least(self, method: str) -> RungCost:
        """Return the least that a method can cost, without measuring it."""
        return self._cost(LEAST[method] * self.trained_row, 0.0)

    def usual(self) -> RungCost:
        """Return what full fine-tuning costs, without measuring it."""
        return self._cost(self.trained_row, BUILD_S)

    def head_rows(
        self,
        left_s: float,
        *,
        fine_tunes: bool,
        joined_s: float = 0.0,
        cost: float = 1.0,
        most_s: float = math.inf,
    ) -> int:
        """Return how many training rows a head can have, whose features are to take no more than the time that is left.

        Args:
            fine_tunes: whether full fine-tuning may follow, to which most of the time then goes.
            joined_s: seconds that are left free where it does not.
            cost: of the head's network, as a share of that of full fine-tuning.
            most_s: seconds that the features take at most.
        """
        feature_s = cost * self._pass * self.row_s
        usable_s = min(most_s, self._features_within(left_s, feature_s, fine_tunes=fine_tunes, joined_s=joined_s))
        return int(min(self.rows["train"], max(LEAST_ROWS, usable_s / feature_s)))

    def _features_within(self, left_s: float, feature_s: float, *, fine_tunes: bool, joined_s: float) -> float:
        if math.isinf(left_s):
            return left_s
        # The features of the validation rows are cached, too, in place of one of the passes afterwards.
        usable_s = left_s * (1 - RESERVE) - self.after_s
        short_s = min(usable_s, max(HEAD_SHARE * left_s, LEAST_ROWS * feature_s))
        is_first = fine_tunes and self._fine_tunes_within(usable_s - short_s)
        return short_s if is_first else usable_s - joined_s

    def layer_rows(self, left_s: float) -> int:
        """Return on how many rows the layers are compared that a head may read, all of them in one pass. 0: the top one
        is read."""
        if math.isinf(left_s):
            return choose_layer.MOST_ROWS
        rows = int(LAYER_SHARE * left_s / (self._pass * self.row_s))
        fits_s = MANY_OUTPUTS_FROM_S if self.outputs > MANY_OUTPUTS else 0.0
        has_time = left_s >= fits_s and rows >= min(ENOUGH_COMPARED, self.rows["train"])
        return min(rows, choose_layer.MOST_ROWS) if has_time else 0

    def goes_straight(self, left_s: float) -> bool:
        """Whether full fine-tuning comes without a head before it, whose features, fit and judgement would take a part
        of the time that training needs."""
        if math.isinf(left_s):
            return False
        usable_s, judged_s = left_s * (1 - RESERVE), self.judged_s
        if judged_s <= JUDGED_SHARE * (usable_s - self.after_s - judged_s) and not self._is_head_idle(left_s, judged_s):
            return False
        return self._fine_tunes_within(usable_s)

    def _is_head_idle(self, left_s: float, judged_s: float) -> bool:
        """Whether a head would take much of the time of a full fine-tuning that sees many rows, see `HEAD_COST`."""
        usable_s = left_s * (1 - RESERVE)
        features = self.head_rows(left_s, fine_tunes=True) + self.rows["validation"]
        head_s = judged_s + features * self._pass * self.row_s + WRITE_S
        seen = self.usual().epochs_within(usable_s) * self.rows["train"]
        return head_s > HEAD_COST * usable_s and seen >= MANY_SEEN * self.outputs

    def _fine_tunes_within(self, seconds: float) -> bool:
        """Whether full fine-tuning sees so many rows within a time that the time is better its own."""
        epochs = self.usual().epochs_within(seconds)
        return epochs >= self.least_epochs and epochs * self.rows["train"] >= LEAST_SEEN * self.outputs

    def _cost(self, trained_row: float, before_s: float) -> RungCost:
        train = self.rows["train"]
        epoch_s, steps = trained_row * train * self.row_s, max(1, train // 32)
        return RungCost(epoch_s, before_s, self.after_s, steps, least_epochs=self.least_epochs)


@dataclass
class MethodCosts:
    """Costs of methods and of a row, each measured once."""

    measured: dict[str, RungCost] = field(default_factory=dict)
    row_s: float | None = None
    """Seconds to predict a row. None: not measured yet."""

    def row(self, run: Run | None, left_s: float) -> float:
        """Return the seconds to predict a row.

        Args:
            run: a prepared one, by which they are measured if they are not yet.
            left_s: seconds of the budget.
        """
        if self.row_s is None:
            assert run is not None, "nothing is trained yet"
            with Progress("measure a row"):
                self.row_s = measure_row(run, min(MOST_TIMED_S, ROW_SHARE * left_s))
        return self.row_s

    def of(
        self,
        method: str,
        scoring: Scoring,
        prepared: Callable[[], Run],
        *,
        left_s: float,
        folded: Callable[[RungCost], RungCost],
    ) -> RungCost:
        """Return the cost of a method; the least that it can be, where even that leaves no time for it; the usual one
        of full fine-tuning, where there is no time to measure it.

        Args:
            prepared: builds its run, with encoded rows.
            left_s: seconds of the budget.
            folded: adds the trainings of the folds to a cost, see `folds.with_folds`.
        """
        if method not in self.measured:
            least = folded(scoring.least(method))
            if not math.isinf(left_s) and least.epochs_within(left_s) < least.least_epochs:
                return least
            if method == "full" and left_s < MEASURED_FROM_S:
                return folded(scoring.usual())
            with Progress(f"measure {method}"):
                self.measured[method] = measure(prepared(), scoring)
            gc.collect()
        return folded(self.measured[method])


def scoring_of(run: Run | RunInput, row_s: float, excludable_s: float, *, later_s: float = 0.0) -> Scoring:
    """Return what scoring the splits of a run costs.

    Args:
        later_s: see `Scoring`.
        excludable_s: see `Budget`.
    """
    splits = run.data.splits
    named = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    trained_row = TRAINED_ROW if run.context.autocast is None else TRAINED_ROW_IN_HALF
    counts = {name: len(rows) for name, rows in named.items() if rows is not None}
    gate_s = max(0.0, gate_seconds(run.context, row_s) - excludable_s)
    return Scoring(row_s, counts, trained_row, gate_s, max(1, len(splits.labels)), later_s)


def with_rows(run: Run, rows: int) -> Run:
    """Return a run on some of its labeled training rows, drawn at random, with rows of every class."""
    splits, task, labels = run.data.splits, run.data.task, run.data.train_labels
    if rows >= len(splits.train):
        return run
    logger.info("head: on %d of %d training rows, whose features fit into the time", rows, len(splits.train))
    labeled = np.flatnonzero(is_labeled(labels_of(splits.train)))
    drawn = np.random.default_rng(run.recipe.train.seed).permutation(len(labeled))[:rows]
    chosen = labeled[task.with_every_output(drawn, labels)]
    part = splits.train.select(np.sort(chosen))
    fewer = run.variant(splits=replace(splits, train=part, fingerprint=f"{splits.fingerprint} {rows} rows"))
    return replace(fewer, all_splits=splits)


def with_few_validated(run: Run) -> Run:
    """Return a run on a few of its validation rows."""
    splits = run.data.splits
    few = splits.validation.select(range(min(VALIDATED_ROWS, len(splits.validation))))
    return run.variant(splits=replace(splits, validation=few, test=None))


def measure(run: Run, scoring: Scoring) -> RungCost:
    """Measure the cost of a prepared run, with encoded rows, by a few of its steps. Its network is changed."""
    assert run.encoded is not None, "encoded before"
    started = time.perf_counter()
    epoch_s, cache_s, steps = measure_epoch(run, run.encoded[0])
    logger.debug("measured in %.1f s", time.perf_counter() - started)
    # With folds no rows are scored after an epoch.
    validated = scoring.rows["validation"] if run.recipe.evaluate.folds is None else 0
    epoch_s += validated * scoring.row_s
    return RungCost(epoch_s, BUILD_S, scoring.after_s, steps, once_s=cache_s, least_epochs=scoring.least_epochs)


def measure_epoch(run: Run, encoded: Dataset) -> tuple[float, float, int]:
    """Train a few steps of a prepared run in a temporary folder, and return the seconds of an epoch's steps, those of
    caching its frozen layers, and its number of steps.

    Args:
        encoded: training rows.
    """
    epoch = step_batches(run, run.data.inputs.lengths(encoded))
    indices = rows_of_steps(run, encoded, epoch, TIMED_STEPS)
    few = short_training(run, run.data.splits.train.select(np.sort(indices)), num_train_epochs=1, max_steps=-1)
    train = replace(few.recipe.train, head_warm_start=False, max_time=None)
    recipe = replace(few.recipe, train=train, batching=replace(few.recipe.batching, sampling="none"))
    few = replace(with_few_validated(few.variant(recipe=recipe)), encoded=None, start_heads=())
    with isolated() as folder:
        trained = fit_dry(few, folder, KernelChoice(default_kernels(few)))
        times = np.diff([line["time"] for line in read_log(folder / LOG) if "loss" in line])
    lengths = run.data.inputs.lengths(encoded)
    few_lengths = None if lengths is None else lengths[encoded_of(encoded, np.sort(indices))]
    timed = step_times(few, times, trained.trainer.clock.loop.seconds, few_lengths)
    epoch_s = timed.total(step_sizes(run, epoch.step_rows(), lengths))
    cache_s = trained.clock.seconds("cache_s") / len(indices) * (len(encoded) + len(run.data.splits.validation))
    return epoch_s, cache_s, epoch.steps
