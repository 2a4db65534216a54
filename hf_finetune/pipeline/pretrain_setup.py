"""What a pretraining stage trains: its rows, its network, and what is learned."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from torch import nn
from transformers import TrainingArguments

from hf_finetune.data.inputs import TextInputs
from hf_finetune.data.splits import SEED_STREAM_WITHIN_TRAIN
from hf_finetune.errors import InputError
from hf_finetune.pipeline.batching import micro_batch, step_batches
from hf_finetune.pipeline.context import PreparedRun
from hf_finetune.pipeline.kernels import default_kernels
from hf_finetune.pipeline.update_rule import shortcuts
from hf_finetune.pretraining.config import MaskedLanguage, PretrainObjective, SimCLR
from hf_finetune.pretraining.models import load_pretrainable
from hf_finetune.pretraining.objectives.base import Task
from hf_finetune.pretraining.trainer import HELD_OUT, PretrainingTrainer
from hf_finetune.pretraining.word_masking import rows_with_words
from hf_finetune.training.arguments import training_arguments
from hf_finetune.training.callbacks import LogLines, ProgressBar
from hf_finetune.training.losses.config import Supervised
from hf_finetune.training.optim.config import AdamW
from hf_finetune.training.optim.schedule_config import resolve
from hf_finetune.training.optim.update_rule import UpdateRule
from hf_finetune.training.setup import BatchPlan, TrainingData, TrainingSetup

logger = logging.getLogger("hf_finetune.run")

LOG = "log.jsonl"
# Of the held-out rows: more tell the loss no better than anyone needs it.
MOST_HELD_OUT = 1000
# Of `train.extra`, what says when the run evaluates, and where it reports: pretraining does both in its own way.
OF_THE_RUN_ALONE = {"eval_on_start", "eval_delay", "logging_first_step", "report_to"}


@dataclass(frozen=True)
class PretrainingSplit:
    """What is pretrained on, encoded, and a share that is held out."""

    train: Dataset
    held_out: Dataset
    wordless: int
    """Rows without a word to be guessed, which are left out."""


@dataclass(frozen=True)
class PretrainingSetup:
    """A pretraining stage before its first step: what can be refused has been looked at, and nothing is written."""

    run: PreparedRun
    """The run as if these were its training rows."""
    rows: PretrainingSplit
    task: Task
    """What the network learns."""


def encode_pretraining_rows(run: PreparedRun) -> PretrainingSplit:
    """The rows as tokens or pixels, a share of them held out.

    Raises:
        InputError: hardly a row has a word that could be guessed, or the tokenizer does not fit the objective.
    """
    inputs, recipe, objective = run.data.inputs, run.recipe, run.recipe.pretrain.objective
    assert run.data.pretraining_rows is not None and objective is not None, "the recipe pretrains"
    whole = encoded = inputs.encode(run.data.pretraining_rows.rows)
    if isinstance(objective, MaskedLanguage):
        assert isinstance(inputs, TextInputs), "checked: words are those of texts"
        encoded = rows_with_words(encoded, inputs, whole_word=objective.whole_word)
    if len(encoded) < 2:
        raise InputError(f"pretrain.rows: {len(encoded)} rows with words to guess; expected two at least")
    # A row alone has none to be told from.
    least = 2 if objective.compares_rows and len(encoded) > 3 else 1
    share = max(least, min(MOST_HELD_OUT, round(recipe.pretrain.held_out_fraction * len(encoded)), len(encoded) - 1))
    order = np.random.default_rng((recipe.data.split_seed, SEED_STREAM_WITHIN_TRAIN)).permutation(len(encoded))
    held_out, train = np.sort(order[:share]), np.sort(order[share:])
    return PretrainingSplit(encoded.select(train), encoded.select(held_out), len(whole) - len(encoded))


def set_up(run: PreparedRun, rows: PretrainingSplit) -> PretrainingSetup:
    """Load what is pretrained.

    Raises:
        InputError: the batches do not fit, or compare no rows where that is the objective; a field of train.extra;
            there is no mask token; the model drops nothing out where that makes the views, its images cannot be changed
            where that does, or they are of one patch where patches are left out.
    """
    objective, recipe = run.recipe.pretrain.objective, run.recipe
    assert objective is not None, "the recipe pretrains"
    network = load_pretrainable(
        run.context.checkpoint,
        objective,
        dropout=recipe.model.dropout,
        attn_implementation=recipe.model.attn_implementation,
        seed=recipe.train.seed,
    )
    as_run = _as_training_rows(run, rows)
    _check_batches(as_run, objective)
    assert run.data.pretraining_rows is not None, "the recipe pretrains"
    inputs, pretraining_rows = run.data.inputs, run.data.pretraining_rows.rows
    task = objective.task(network, inputs, pretraining_rows, inputs.collate(rows.train[:1]), recipe.train.seed)
    setup = PretrainingSetup(as_run, rows, task)
    trainer_arguments(setup, Path())  # what they refuse is refused now
    return setup


def _as_training_rows(run: PreparedRun, rows: PretrainingSplit) -> PreparedRun:
    """The run as its batches would be cut if these were its training rows."""
    recipe = run.recipe
    run = run.varied(
        recipe=replace(recipe, objective=Supervised(), batching=replace(recipe.batching, sampling="none")),
        splits=replace(run.data.splits, train=rows.train, validation=rows.held_out, test=None),
    )
    if isinstance(recipe.pretrain.objective, SimCLR):
        # Where passes of few images are faster a step is cut into such; here each would have fewer to be told from.
        return replace(run, model=replace(run.model, image_tokens=None))
    return run


def pretraining_steps(run: PreparedRun, rows: PretrainingSplit) -> list[np.ndarray]:
    """The rows of each optimizer step of an epoch."""
    return step_batches(_as_training_rows(run, rows), run.data.inputs.lengths(rows.train)).step_rows()


def _check_batches(run: PreparedRun, objective: PretrainObjective) -> None:
    """Refuse steps that cannot be cut as they are to be, and passes of one row where rows are told from one another."""
    batches = step_batches(run, run.data.inputs.lengths(run.data.splits.train))
    if not objective.compares_rows:
        return
    if max(map(len, batches.step_rows())) <= batches.accumulation * batches.processes:
        raise InputError(
            f"pretrain.objective: {type(objective).__name__} tells a row from the others of its forward pass, and here "
            "that has one row; raise train.per_device_train_batch_size, batching.rows_per_step or batching.token_budget"
        )


def build_trainer(setup: PretrainingSetup, folder: Path, *, first: bool, saving: bool = True) -> PretrainingTrainer:
    """The stage's trainer.

    Args:
        folder: takes checkpoints and log.jsonl.
        first: it begins now: the held-out rows are scored before the first step, too.
        saving: write checkpoints.
    """
    run, batching = setup.run, setup.run.recipe.batching
    network: nn.Module = setup.task.network
    network.to(run.context.device)
    default_kernels(run).switch_on(setup.task.network)
    return PretrainingTrainer(
        trainer_arguments(setup, folder, first=first, saving=saving),
        TrainingSetup(
            TrainingData(setup.rows.train, setup.rows.held_out, run.data.inputs),
            BatchPlan(micro_batch(run).rows_per_step, by_length=batching.by_length, token_budget=batching.token_budget),
            update=UpdateRule(schedule=resolve(None, warmup_steps=None, optimizer=AdamW())),
            shortcuts=shortcuts(run.context),
            callbacks=(ProgressBar(HELD_OUT, "pretrain"), LogLines(folder / LOG)),
        ),
        setup.task,
    )


def trainer_arguments(
    setup: PretrainingSetup, folder: Path, *, first: bool = True, saving: bool = True
) -> TrainingArguments:
    """Of the stage's trainer, see `build_trainer`; also what `train.extra` says of the loader, memory and the like.

    Raises:
        InputError: see `training_arguments`.
    """
    run, pretrain, train = setup.run, setup.run.recipe.pretrain, setup.run.recipe.train
    cut, extra = micro_batch(run), {n: value for n, value in train.extra.items() if n not in OF_THE_RUN_ALONE}
    train = replace(
        train,
        learning_rate=pretrain.rate,
        num_train_epochs=pretrain.num_train_epochs,
        max_steps=pretrain.max_steps,
        per_device_train_batch_size=cut.rows,
        gradient_accumulation_steps=cut.accumulation,
        logging_steps=train.logging_steps if saving else 1,
        extra={**extra, "eval_on_start": first and saving},
    )
    return training_arguments(
        folder / "checkpoints",
        train,
        metric=HELD_OUT,
        greater_is_better=False,
        mixed_precision=run.context.mixed_precision,
        device=run.context.device,
        saving=saving,
    )
