"""How the rows of a run become optimizer steps and forward passes."""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from hf_finetune.data.batching import StepBatches
from hf_finetune.data.inputs import Inputs, TextInputs
from hf_finetune.models.kernels.unpadded import use_unpadded
from hf_finetune.models.surgery.stochastic_depth import LayerDrop, StochasticDepth
from hf_finetune.pipeline.context import Run, RunContext
from hf_finetune.training.setup import BatchPlan

# On a CPU a step of images is cut into forward passes of about so many tokens: 8 images at a time instead of 32 trained
# a ViT-small at 224 pixels 1.37 times as fast on two cores (its activations fit the caches, and are not mapped anew).
CPU_FORWARD_TOKENS = 2048


@dataclass(frozen=True)
class MicroBatch:
    """How an optimizer step is cut into forward passes."""

    rows: int
    """Rows of a forward pass."""
    accumulation: int
    """Forward passes of a step on each process."""
    rows_per_step: int
    """Rows of a step over all processes."""


def micro_batch(run: Run) -> MicroBatch:
    """Return the sizes of steps and forward passes, which depend on the recipe, the processes and the device."""
    context, train, rows_per_step = run.context, run.recipe.train, run.recipe.batching.rows_per_step
    rows, accumulation = train.per_device_train_batch_size, train.gradient_accumulation_steps
    if rows_per_step is None:
        rows_per_step = rows * accumulation * context.processes
    else:
        rows = min(rows, -(-rows_per_step // context.processes))
        accumulation = -(-rows_per_step // (rows * context.processes))
    windows = run.data.inputs.windows
    if windows > 1 and run.recipe.batching.token_budget is None:
        # A forward pass has no more windows than it otherwise has rows, unless one row alone has more.
        parts = max(1, min(windows, _smallest_share(run, rows_per_step) // accumulation))
        rows, accumulation = -(-rows // parts), accumulation * parts
    if context.device.type == "cpu" and run.model.image_tokens is not None and not context.compares_rows:
        # A mixed row needs another row in its forward pass.
        most = _smallest_share(run, rows_per_step) // accumulation // (2 if run.recipe.objective.mix else 1)
        parts = max(1, min(-(-rows * run.model.image_tokens // CPU_FORWARD_TOKENS), most))
        rows, accumulation = -(-rows // parts), accumulation * parts
    return MicroBatch(rows, accumulation, rows_per_step)


def _smallest_share(run: Run, rows_per_step: int) -> int:
    """Return the rows of the smallest step on a process."""
    count = len(run.data.splits.train)
    return count // -(-count // rows_per_step) // run.context.processes


def batch_plan(run: Run) -> BatchPlan:
    """Return the batch plan of the recipe, for padded batches."""
    batching = run.recipe.batching
    return BatchPlan(
        micro_batch(run).rows_per_step,
        by_length=batching.by_length,
        token_budget=batching.token_budget,
        sampling=batching.sampling,
    )


def step_batches(run: Run, lengths: np.ndarray | None) -> StepBatches:
    """Return the optimizer steps of the run, given the tokens of each training row.

    Raises:
        InputError: see `StepBatches`.
    """
    return batch_plan(run).step_batches(
        run.data.splits.train,
        lengths,
        accumulation=micro_batch(run).accumulation,
        seed=run.recipe.train.seed,
        processes=run.context.processes,
    )


def trains_unpadded(context: RunContext, inputs: Inputs, network: PreTrainedModel) -> bool:
    """Whether batches have no padding in training, see `models.kernels.unpadded.use_unpadded`.

    Raises:
        InputError: `batching.unpadded` is on, and the network or another field does not allow it.
    """
    return isinstance(inputs, TextInputs) and use_unpadded(
        context.recipe.batching.unpadded,
        network,
        device=context.device,
        autocast=context.autocast,
        reason=_why_padded(context),
    )


def _why_padded(context: RunContext) -> str:
    """Return why the recipe needs padding, or ""."""
    recipe = context.recipe
    if recipe.data.kind == "text" and recipe.data.long.shares is not None:
        return "data.long reads several windows of a text, and in a packed row texts stand one behind the other"
    if any(isinstance(step, LayerDrop | StochasticDepth) for step in recipe.model.surgery):
        return "model.surgery skips layers for each row, and all rows of a packed batch are one"
    if recipe.compares_features:
        return "objective.kinds compares tokens with the teacher's row by row"
    if recipe.uses_prompt_learning:
        return "prompts cannot be put before every text of a packed row"
    if recipe.objective.mix:
        return "objective.mix lays one text over another, and in a packed row they stand one behind the other"
    if recipe.objective.r_drop:
        return "objective.r_drop forwards every row twice, and a packed batch cannot be doubled"
    if recipe.objective.contrast:
        return "objective.contrast forwards every row twice, and a packed batch cannot be doubled"
    return ""
