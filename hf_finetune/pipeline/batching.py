"""How the rows of a run become optimizer steps and forward passes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_finetune.data.batching import StepBatches
from hf_finetune.data.inputs import TextInputs
from hf_finetune.data.sampling import class_draw
from hf_finetune.models.kernels.unpadded import use_unpadded
from hf_finetune.models.surgery.stochastic_depth import LayerDrop, StochasticDepth
from hf_finetune.pipeline.context import PreparedRun, RunContext

# On a CPU a step of images is cut into forward passes of about so many tokens: 8 images at a time instead of 32 trained
# a ViT-small at 224 pixels 1.37 times as fast on two cores (its activations fit the caches, and are not mapped anew).
CPU_FORWARD_TOKENS = 2048


@dataclass(frozen=True)
class MicroBatch:
    """How an optimizer step is cut into forward passes."""

    rows: int
    """Of a forward pass."""
    accumulation: int
    """Forward passes per step and process."""
    rows_per_step: int
    """Of a step, over all processes."""


def micro_batch(run: PreparedRun) -> MicroBatch:
    """The rows of a forward pass and of a step, as the recipe, the processes and the device have them."""
    context, train, rows_per_step = run.context, run.recipe.train, run.recipe.batching.rows_per_step
    rows, accumulation = train.per_device_train_batch_size, train.gradient_accumulation_steps
    if rows_per_step is None:
        rows_per_step = rows * accumulation * context.processes
    else:
        rows = min(rows, -(-rows_per_step // context.processes))
        accumulation = -(-rows_per_step // (rows * context.processes))
    if context.device.type == "cpu" and run.model.image_tokens is not None and not context.compares_rows:
        count = len(run.data.splits.train)
        smallest_share = count // -(-count // rows_per_step) // context.processes // accumulation
        # Rows that are mixed need another beside them.
        most = smallest_share // (2 if run.recipe.objective.mix else 1)
        parts = max(1, min(-(-rows * run.model.image_tokens // CPU_FORWARD_TOKENS), most))
        rows, accumulation = -(-rows // parts), accumulation * parts
    return MicroBatch(rows, accumulation, rows_per_step)


def step_batches(run: PreparedRun, lengths: np.ndarray | None) -> StepBatches:
    """The optimizer steps of the run, given the tokens of each training row.

    Raises:
        InputError: see `StepBatches`.
    """
    batching, cut, rows = run.recipe.batching, micro_batch(run), run.data.splits.train
    return StepBatches(
        len(rows),
        rows_per_step=cut.rows_per_step,
        accumulation=cut.accumulation,
        lengths=lengths if batching.by_length else None,
        token_budget=batching.token_budget,
        draw=class_draw(rows, batching.sampling),
        seed=run.recipe.train.seed,
        processes=run.context.processes,
    )


def trains_unpadded(run: PreparedRun) -> bool:
    """Whether training goes without padding, see `models.kernels.unpadded.use_unpadded`.

    Raises:
        InputError: the recipe asks for it and it cannot be.
    """
    return isinstance(run.data.inputs, TextInputs) and use_unpadded(
        run.recipe.batching.unpadded,
        run.model.network,
        device=run.context.device,
        autocast=run.context.autocast,
        reason=_why_padded(run.context),
    )


def _why_padded(context: RunContext) -> str:
    """What of the recipe stands against batches without padding; "": nothing."""
    recipe = context.recipe
    if any(isinstance(step, LayerDrop | StochasticDepth) for step in recipe.model.surgery):
        return "model.surgery passes layers by for each row, and all rows of a packed batch are one"
    if recipe.compares_features:
        return "objective.kinds compares tokens with the teacher's row by row"
    if recipe.adapter is not None and recipe.adapter.is_prompt_learning:
        return "prompts cannot be put before every text of a packed row"
    if recipe.objective.mix:
        return "objective.mix lays one text over another, and in a packed row they stand one behind the other"
    if recipe.objective.r_drop:
        return "objective.r_drop sends every row through twice, and a packed batch cannot be doubled"
    return ""
