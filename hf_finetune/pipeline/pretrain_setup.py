"""Set up the pretraining stage: its rows, its network, its objective and its trainer."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from torch import nn
from transformers import TrainingArguments

from hf_finetune.data.inputs import Inputs, TextInputs
from hf_finetune.data.splits import SEED_STREAM_WITHIN_TRAIN
from hf_finetune.errors import InputError
from hf_finetune.pipeline.batch_plan import batch_plan, step_batches
from hf_finetune.pipeline.choose_kernels import default_kernels
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.optimization import shortcuts, trainer_arguments
from hf_finetune.pretraining.config import MaskedLanguage, SimCLR
from hf_finetune.pretraining.models import load_pretrainable
from hf_finetune.pretraining.objectives.base import Task
from hf_finetune.pretraining.trainer import HELD_OUT, PretrainingTrainer
from hf_finetune.pretraining.word_masking import rows_with_words
from hf_finetune.training.callbacks import LOG, LogLines, ProgressBar
from hf_finetune.training.losses.config import Supervised
from hf_finetune.training.optim.config import AdamW
from hf_finetune.training.optim.schedule_config import resolve
from hf_finetune.training.optim.update_rule import UpdateRule
from hf_finetune.training.setup import TrainingData, TrainingSetup

logger = logging.getLogger("hf_finetune.run")

# More held-out rows would hardly change the measured loss.
MOST_HELD_OUT = 1000
# Fields of `train.extra` that pretraining ignores: it evaluates and reports in its own way.
IGNORED_EXTRA = {"eval_on_start", "eval_delay", "logging_first_step", "report_to"}


@dataclass(frozen=True)
class PretrainingSplit:
    """The encoded rows that are pretrained on, and those held out."""

    train: Dataset
    held_out: Dataset
    wordless: int
    """Rows left out because they have no word to predict."""


@dataclass(frozen=True)
class PretrainingSetup:
    """A pretraining stage that is checked, before its first step. Nothing is written yet."""

    run: Run
    """The run with the stage's rows as training rows, and its settings in `recipe.train`."""
    rows: PretrainingSplit
    task: Task


def split_pretraining_rows(run: Run) -> PretrainingSplit:
    """Encode the pretraining rows, and hold out a share of them.

    Raises:
        InputError: fewer than two rows have a word to predict, or the tokenizer does not fit the objective.
    """
    inputs, recipe, objective = _inputs(run), run.recipe, run.recipe.pretrain.objective
    assert run.data.pretraining_rows is not None and objective is not None, "the recipe pretrains"
    usable = encoded = inputs.encode(run.data.pretraining_rows.rows)
    if isinstance(objective, MaskedLanguage):
        assert isinstance(inputs, TextInputs), "the rules allow this objective for texts alone"
        usable = rows_with_words(encoded, inputs, whole_word=objective.whole_word)
    if len(usable) < 2:
        raise InputError(f"pretrain.rows: expected at least 2 rows with words to predict, got {len(usable)}; add rows")
    # A contrastive loss needs a second row.
    least = 2 if objective.compares_rows and len(usable) > 3 else 1
    count = max(least, min(MOST_HELD_OUT, round(recipe.pretrain.held_out_fraction * len(usable)), len(usable) - 1))
    order = np.random.default_rng((recipe.data.split_seed, SEED_STREAM_WITHIN_TRAIN)).permutation(len(usable))
    held_out, train = np.sort(order[:count]), np.sort(order[count:])
    return PretrainingSplit(usable.select(train), usable.select(held_out), len(encoded) - len(usable))


def setup_pretraining(run: Run, rows: PretrainingSplit) -> PretrainingSetup:
    """Load the network to pretrain, and check that batches, images and fields fit the objective.

    Raises:
        InputError: see `StepBatches`, `training_arguments` and the `task` method of the objective; or a forward pass
            has one row, and the objective compares rows.
    """
    objective, recipe = run.recipe.pretrain.objective, run.recipe
    assert run.data.pretraining_rows is not None and objective is not None, "the recipe pretrains"
    network = load_pretrainable(
        run.context.checkpoint,
        objective,
        dropout=recipe.model.dropout,
        attn_implementation=recipe.model.attn_implementation,
        seed=recipe.train.seed,
    )
    stage = _stage_run(run, rows)
    batches = step_batches(stage, run.data.inputs.lengths(rows.train))
    passes = batches.accumulation * batches.processes
    if objective.compares_rows and max(map(len, batches.step_rows())) <= passes:
        raise InputError(
            f"pretrain.objective: {type(objective).__name__} compares the rows of a forward pass, and here "
            "that has one row; raise train.per_device_train_batch_size, batching.rows_per_step or batching.token_budget"
        )
    inputs, pretraining_rows = _inputs(run), run.data.pretraining_rows.rows
    task = objective.task(network, inputs, pretraining_rows, inputs.collate(rows.train[:1]), recipe.train.seed)
    setup = PretrainingSetup(stage, rows, task)
    # Refuses unusable fields of train.extra before anything is written.
    _pretraining_arguments(setup, Path())
    return setup


def _stage_run(run: Run, rows: PretrainingSplit) -> Run:
    """Return the run with the rows and settings of the stage in place of those of training."""
    recipe, pretrain = run.recipe, run.recipe.pretrain
    train = replace(
        recipe.train,
        learning_rate=pretrain.rate,
        num_train_epochs=pretrain.num_train_epochs,
        max_steps=pretrain.max_steps,
        extra={name: value for name, value in recipe.train.extra.items() if name not in IGNORED_EXTRA},
    )
    batching = replace(recipe.batching, sampling="none")
    run = run.variant(
        recipe=replace(recipe, objective=Supervised(), batching=batching, train=train),
        splits=replace(run.data.splits, train=rows.train, validation=rows.held_out, test=None),
    )
    run = replace(run, data=replace(run.data, inputs=_inputs(run)))
    if isinstance(pretrain.objective, SimCLR):
        # On a CPU steps of images are cut into small forward passes, where SimCLR would have fewer negatives.
        return replace(run, model=replace(run.model, image_tokens=None))
    return run


def _inputs(run: Run) -> Inputs:
    """Return the inputs of the stage, which reads the beginnings of long texts."""
    inputs = run.data.inputs
    return inputs.truncating() if isinstance(inputs, TextInputs) else inputs


def pretraining_steps(run: Run, rows: PretrainingSplit) -> list[np.ndarray]:
    """Return the row indices of each optimizer step of an epoch."""
    return step_batches(_stage_run(run, rows), run.data.inputs.lengths(rows.train)).step_rows()


def build_trainer(
    setup: PretrainingSetup, folder: Path, *, eval_on_start: bool, saving: bool = True
) -> PretrainingTrainer:
    """Return the trainer of the stage.

    Args:
        folder: of checkpoints and log.jsonl.
        eval_on_start: whether the held-out rows are scored before the first step.
        saving: whether checkpoints are written.
    """
    run, network = setup.run, setup.task.network
    module: nn.Module = network
    module.to(run.context.device)
    default_kernels(run).switch_on(network)
    return PretrainingTrainer(
        _pretraining_arguments(setup, folder, eval_on_start=eval_on_start, saving=saving),
        TrainingSetup(
            TrainingData(setup.rows.train, setup.rows.held_out, run.data.inputs),
            batch_plan(run),
            update=UpdateRule(schedule=resolve(None, warmup_steps=None, optimizer=AdamW())),
            shortcuts=shortcuts(run.context),
            callbacks=(ProgressBar(HELD_OUT, "pretrain"), LogLines(folder / LOG)),
        ),
        setup.task,
    )


def _pretraining_arguments(
    setup: PretrainingSetup, folder: Path, *, eval_on_start: bool = False, saving: bool = True
) -> TrainingArguments:
    recipe, train = setup.run.recipe, setup.run.recipe.train
    train = replace(train, extra={**train.extra, "eval_on_start": eval_on_start})
    run = setup.run.variant(recipe=replace(recipe, train=train))
    return trainer_arguments(run, folder / "checkpoints", metric=HELD_OUT, greater_is_better=False, saving=saving)
