"""Choose the length of a training on few rows, where `train.num_train_epochs` is None.

Three epochs of eight labels a class are three steps, from which a network learns nothing. Smaller steps make more of
them at no cost, as far as they go; more epochs make the rest.
"""

import math
from dataclasses import replace

from hf_finetune.pipeline.context import RunContext, RunData
from hf_finetune.training.config import EPOCHS, Batching, Train
from hf_finetune.training.optim.schedule_config import BY_EVALUATIONS
from hf_finetune.utils.messages import counted

LEAST_STEPS = 100
"""Optimizer steps of a run. A run of fewer gets smaller steps, then more epochs."""
LEAST_ROWS = 8
"""Rows of the smallest step. Those of one or two rows are noisy, and cost more time."""
VALIDATED_STEPS = 10
"""Steps between two validations, where epochs have fewer."""


def choose_length(context: RunContext, data: RunData) -> tuple[RunContext, str | None]:
    """Return the run with a number of epochs in place of None, and a note where the rows are few."""
    train, batching, rows = context.recipe.train, context.recipe.batching, len(data.splits.train)
    if train.num_train_epochs is not None or train.max_steps > 0:
        return context, None
    own = train.per_device_train_batch_size * train.gradient_accumulation_steps * context.processes
    size = smaller = batching.rows_per_step or own
    steps = math.ceil(EPOCHS * math.ceil(rows / size))
    # With a budget the tokens of the texts, which are not known yet, decide how many steps an epoch has.
    if batching.token_budget is not None or steps >= LEAST_STEPS:
        return _with(context, replace(train, num_train_epochs=EPOCHS), batching), None
    if _may_shrink(context):
        fitting = 2 ** math.floor(math.log2(math.ceil(EPOCHS * rows / LEAST_STEPS)))
        # The steps of an epoch differ in size, and each process needs a row of the smallest one.
        smaller = min(max(LEAST_ROWS, 2 * context.processes, fitting), size)
        batching = replace(batching, rows_per_step=smaller)
    of_epoch = math.ceil(rows / smaller)
    epochs = max(EPOCHS, math.ceil(LEAST_STEPS / of_epoch))
    counts_validations = train.early_stopping_patience or train.lr_scheduler_type in BY_EVALUATIONS
    if train.validate_every == 1 and not counts_validations:
        train = replace(train, validate_every=max(1, VALIDATED_STEPS // of_epoch))
    note = (
        f"{counted(rows, 'training row')}: {epochs:g} epochs in steps of {smaller}, for at least {LEAST_STEPS} "
        f"optimizer steps ({EPOCHS:g} epochs in steps of {size} make {steps}); "
        "--epochs and --batching.rows-per-step set them"
    )
    return _with(context, replace(train, num_train_epochs=epochs), batching), note


def _may_shrink(context: RunContext) -> bool:
    """Whether the recipe leaves the size of a step at its default. Pretraining takes steps of the same size."""
    recipe, default, train = context.recipe, Train(), context.recipe.train
    return (
        recipe.pretrain.objective is None
        and recipe.batching.rows_per_step is None
        and train.per_device_train_batch_size == default.per_device_train_batch_size
        and train.gradient_accumulation_steps == default.gradient_accumulation_steps
    )


def _with(context: RunContext, train: Train, batching: Batching) -> RunContext:
    return replace(context, recipe=replace(context.recipe, train=train, batching=batching))
