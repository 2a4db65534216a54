"""From the loaded network to the one that takes the first step: its adapter, fitted head, kernels and cached rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import PartialState
from peft import PeftModel
from transformers import PreTrainedModel

from hf_finetune.features.frozen_layers import TrainingRows, cache_frozen_layers
from hf_finetune.models.peft import adapters
from hf_finetune.models.peft.compatibility import starts_as_identity, subtracts_from_base
from hf_finetune.pipeline.ask_teacher import TeacherOutput
from hf_finetune.pipeline.build_model import with_adapter
from hf_finetune.pipeline.context import PreparedRun
from hf_finetune.pipeline.encode_rows import EncodedRows
from hf_finetune.pipeline.fit_head import fit_head
from hf_finetune.pipeline.kernels import choose_kernels
from hf_finetune.pipeline.record import RunRecord
from hf_finetune.pipeline.run_folder import replacing
from hf_finetune.pipeline.stopwatch import Stopwatch
from hf_finetune.pipeline.update_rule import shortcuts


@dataclass(frozen=True)
class ReadyRun:
    """A run before its first step, with all that was chosen and computed for it."""

    run: PreparedRun
    """With stored copies among its rows, in the number format that was chosen."""
    record: RunRecord
    encoded: EncodedRows
    teacher: TeacherOutput | None
    network: PreTrainedModel
    """As it trains."""
    rows: TrainingRows
    """What it reads."""


def make_ready(
    run: PreparedRun,
    record: RunRecord,
    encoded: EncodedRows,
    teacher: TeacherOutput | None,
    clock: Stopwatch,
    *,
    resumes: bool,
    rehearsal: bool,
) -> ReadyRun:
    """Put the adapter on, choose what computes, cache what the frozen layers give, and fit the head.

    Args:
        resumes: the weights come from a checkpoint: no head is fitted.
        rehearsal: AdaLoRA's ranks stay as they are.
    """
    network: PreTrainedModel = run.model.network
    # One process is enough: the others take its weights when training starts.
    fits = run.recipe.fits_head and not resumes and PartialState().is_main_process
    head = record.head
    if run.recipe.uses_adapter:
        plain = TrainingRows(run.data.inputs, encoded.train, encoded.validation)
        before = run.recipe.adapter is None or starts_as_identity(run.recipe.adapter)
        if fits and before:
            head = fit_head(run, network, encoded.train, plain, clock)
        network = with_adapter(
            run.model.network, run.context, run.model.fresh, steps=None if rehearsal else encoded.steps
        )
        if fits and not before:
            # The adapter changes what the head reads.
            head = fit_head(run, network, encoded.train, plain, clock)
    with clock.measure("probe_s"):
        choice = record.kernels or choose_kernels(run, network, encoded.train, encoded.steps)
    number_format = choice.kernels.mixed_precision
    run = replace(run, context=replace(run.context, mixed_precision=number_format))
    choice.kernels.switch_on(network)
    rows = cache_rows(run, network, encoded)
    if fits and not run.recipe.uses_adapter:
        head = fit_head(run, network, encoded.train, rows, clock)
    record = replace(record, mixed_precision=number_format, kernels=choice, head=head)
    return ReadyRun(run, record, encoded, teacher, network, rows)


def cache_rows(run: PreparedRun, network: PreTrainedModel, encoded: EncodedRows) -> TrainingRows:
    """The encoded rows as activations of the frozen layers, where these can be cached."""
    with shortcuts(run.context).without_gradients.use(network):
        return cache_frozen_layers(
            network,
            run.data.inputs,
            encoded.train,
            encoded.validation,
            fingerprint=run.data.splits.fingerprint,
            autocast=run.context.autocast,
            budget_gb=run.recipe.batching.cache_gb,
            why_not=_why_no_cache(run),
        )


def _why_no_cache(run: PreparedRun) -> str | None:
    """Why no activations of frozen layers are cached; None: they may be."""
    recipe = run.recipe
    if not recipe.batching.cache_prefix:
        return "batching.cache_prefix is off"
    if run.context.augments_online or recipe.objective.mix or run.model.shrink is not None or recipe.model.patch_drop:
        return "the training rows change from step to step"
    if run.recipe.compares_features:
        return "objective.kinds compares states of all layers with the teacher's"
    return None


def write_start(ready: ReadyRun, folder: Path) -> None:
    """Write recipe.json, the first thing that a run writes, and what a resumed run needs of its start.

    An adapter that begins with a part of the pretrained weights is saved as it begins: its last form needs the first.
    """
    checkpoints, network, state = folder / "checkpoints", ready.network, PartialState()
    if state.is_main_process:
        ready.record.write(folder)
        checkpoints.mkdir(exist_ok=True)
        start = checkpoints / adapters.START
        if isinstance(network, PeftModel) and subtracts_from_base(network.active_peft_config) and not start.exists():
            with replacing(start) as path:
                adapters.save_adapter(network, path)
    state.wait_for_everyone()
