"""Choose the number formats and the attention kernel of a run."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import PreTrainedModel

from hf_finetune.data.inputs import Rows, columns_of, with_labels, without_votes
from hf_finetune.data.long.sliding import VOTES
from hf_finetune.models.surgery.attention import SetAttention
from hf_finetune.pipeline.batch_plan import micro_batch, trains_unpadded
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.optimization import shortcuts
from hf_finetune.pipeline.run_setup import RunSetup
from hf_finetune.training import probe
from hf_finetune.training.precision import Kernels, launched


def default_kernels(run: Run) -> Kernels:
    """Return the kernels that are used unless the start-up probe measures faster ones."""
    config = run.recipe.precision
    return Kernels(
        mixed_precision=run.context.mixed_precision,
        float32_matmul="highest" if config.float32_matmul == "auto" else config.float32_matmul,
        attention=run.model.network.config._attn_implementation,
        threads=config.threads or torch.get_num_threads(),
    )


def free_kernels(run: Run) -> frozenset[str]:
    """Return the fields of `Kernels` that neither the recipe nor the launcher sets, and the probe may choose."""
    config, model = run.recipe.precision, run.recipe.model
    is_free = {
        "mixed_precision": config.mixed_precision == "auto" and not launched(),
        "float32_matmul": config.float32_matmul == "auto",
        "attention": model.attn_implementation is None
        and not any(isinstance(step, SetAttention) for step in model.surgery),
    }
    return frozenset(name for name, free in is_free.items() if free)


def choose_kernels(setup: RunSetup) -> RunSetup:
    """Use the kernels of a resumed run, or else the fastest ones."""
    run, record, network, encoded = setup.run, setup.record, setup.network, setup.encoded
    with setup.clock.measure("probe_s"):
        choice = record.kernels or probe_kernels(run, network, encoded.train, encoded.steps)
    number_format = choice.kernels.mixed_precision
    choice.kernels.switch_on(network)
    return replace(
        setup,
        run=replace(run, context=replace(run.context, mixed_precision=number_format)),
        record=replace(record, mixed_precision=number_format, kernels=choice),
    )


def probe_kernels(run: Run, network: PreTrainedModel, train_rows: Dataset, steps: int) -> probe.KernelChoice:
    """Measure which kernels train fastest, see `training.probe`. The main process decides for all.

    Args:
        network: with its adapter.
        train_rows: encoded rows.
        steps: optimizer steps of the run.
    """
    choice: list[Any] = [None]
    if PartialState().is_main_process:
        choice[0] = probe.choose(
            network,
            _typical_batch(run, train_rows),
            default=default_kernels(run),
            free=free_kernels(run),
            planned_steps=steps,
            method=run.recipe.effective_method,
            shortcuts=shortcuts(run.context),
            # Packed batches use other kernels than those that the probe measures.
            probe=run.recipe.precision.probe and not trains_unpadded(run.context, run.data.inputs, run.model.network),
        )
    return broadcast_object_list(choice)[0]


def _typical_batch(run: Run, train_rows: Dataset) -> dict[str, torch.Tensor]:
    """Return a micro-batch of rows of about the mean length."""
    inputs, size = run.data.inputs, min(micro_batch(run).rows, len(train_rows))
    lengths, indices = inputs.lengths(train_rows), np.zeros(1, np.int64)
    if lengths is not None:
        order = np.argsort(lengths, kind="stable")
        middle = int(np.searchsorted(lengths[order], lengths.mean()))
        start = min(max(0, middle - size // 2), len(order) - size)
        indices = order[start : start + size]
    rows = Rows(train_rows, columns_of(inputs, labels=True)).__getitems__(indices.tolist())
    tensors = with_labels(inputs.collate, rows)
    if VOTES in tensors:  # A loss by window takes as long.
        tensors["labels"] = tensors["labels"].repeat_interleave((tensors[VOTES] > 0).sum(1), 0)
    tensors = without_votes(tensors)
    batch = {name: tensor.to(run.context.device) for name, tensor in tensors.items()}
    if lengths is None:
        # Images have one size: one is decoded.
        batch = {name: tensor.repeat(size, *[1] * (tensor.ndim - 1)) for name, tensor in batch.items()}
    # Rows without a label (-1) take as long as any class.
    batch["labels"].clamp_(min=0)
    return batch
