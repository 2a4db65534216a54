"""Between the encoded rows and the first step: the kernels that compute, the head's first weights, and what regularises."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from peft import PeftModel, PeftType
from torch import nn
from transformers import TrainerCallback

from hf_finetune.data.duplicates import first_sources
from hf_finetune.data.inputs import Rows, TextInputs, columns_of, sample_rows, with_labels
from hf_finetune.data.labels import UNLABELED
from hf_finetune.data.provenance import teacher_overlaps
from hf_finetune.distillation import report, teacher_states
from hf_finetune.distillation import teachers as teacher
from hf_finetune.distillation.trainer import Insides
from hf_finetune.features.frozen_layers import TrainingRows
from hf_finetune.models.modules import classification_layers, set_layer
from hf_finetune.models.peft import adapters
from hf_finetune.models.peft.compatibility import cuts_out
from hf_finetune.pipeline.context import Prepared
from hf_finetune.pipeline.run_folder import replacing
from hf_finetune.training import head_cache, probe, warm_start
from hf_finetune.training.rank_schedule import RankSchedule, orthogonality
from hf_finetune.training.regularization.elastic_net import ElasticNetSteps
from hf_finetune.training.regularization.gradient_noise import NoisyGradients
from hf_finetune.training.regularization.mixout import Mixout, pretrained_layers
from hf_finetune.training.unfreezing import GradualUnfreezing, steps_between, waiting
from hf_finetune.training.warm_start import FittedHead

logger = logging.getLogger("hf_finetune.run")


def search_layers(prepared: Prepared, model: nn.Module, train_rows: Dataset) -> list[dict[str, Any]]:
    """Which layers of student and teacher go together, see `distillation.teacher_states.search_layers`; the main process decides for all.

    Args:
        model: the student on its device, as it starts.
    """
    found: list[Any] = [None]
    if PartialState().is_main_process:
        assert prepared.teachers is not None, "a teacher's layers are searched"
        (one,) = prepared.teachers.members
        assert isinstance(one, teacher.Teacher), "refused before"
        found[0] = teacher_states.search_layers(
            one, prepared.kinds, prepared.inputs, model, train_rows, seed=prepared.recipe.train.seed
        )
    return broadcast_object_list(found)[0]


def ask_teacher(
    prepared: Prepared, layer_maps: Sequence[dict[str, Any]], *, test: bool
) -> tuple[teacher.Answers | None, Insides | None]:
    """What the run's teachers say of its rows, and a warning where that is of no use; None: it has no teacher.

    And how its inside is compared with the student's; None: not at all.

    Args:
        layer_maps: see `search_layers`; none where none are searched.
        test: ask about the test rows as well, and look into the teachers' past.
    """
    recipe, splits = prepared.recipe, prepared.splits
    if prepared.teachers is None:
        return None, None
    teachers = prepared.teachers.members
    asked = {"train": splits.train, "validation": splits.validation}
    if test and splits.test is not None:
        asked["test"] = splits.test
    # The others find what the first one leaves.
    with PartialState().main_process_first():
        live = prepared.changes_every_epoch
        answers = teacher.ask(teachers, asked, budget_gb=recipe.batching.cache_gb, live=live)
        insides = None
        if prepared.compares_insides:
            (one,) = teachers
            assert isinstance(one, teacher.Teacher), "refused before"
            insides = teacher_states.insides_of(
                one,
                teacher_states.with_layers(prepared.kinds, layer_maps),
                prepared.inputs,
                prepared.model,
                splits.train,
                seed=recipe.train.seed,
                budget_gb=recipe.batching.cache_gb,
                live=live,
            )
    prepared.teachers.release()
    if test and PartialState().is_main_process:
        answers = replace(answers, seen=tuple(teacher_overlaps(answers.names, splits)))
    for doubt in report.doubts(answers, asked):
        logger.warning(doubt)
    return answers, insides


def choose_kernels(prepared: Prepared, model: nn.Module, train_rows: Dataset, steps: int) -> probe.Choice:
    """What the run computes with; the main process decides for all."""
    recipe, inputs = prepared.recipe, prepared.inputs
    decided: list[Any] = [None]
    if PartialState().is_main_process:
        # Rows of the mean length, as many as a forward pass takes.
        lengths, size = inputs.lengths(train_rows), min(prepared.micro_batch[0], len(train_rows))
        chosen = np.arange(size)
        if lengths is not None:
            order = np.argsort(lengths, kind="stable")
            middle = int(np.searchsorted(lengths[order], lengths.mean()))
            start = min(max(0, middle - size // 2), len(order) - size)
            chosen = order[start : start + size]
        rows = Rows(train_rows, columns_of(inputs, labels=True)).__getitems__(chosen.tolist())
        batch = {name: tensor.to(prepared.device) for name, tensor in with_labels(inputs.collate, rows).items()}
        # What a row without a label costs matters to no clock.
        batch["labels"].clamp_(min=0)
        decided[0] = probe.choose(
            model,
            batch,
            default=prepared.kernels,
            free=prepared.free_kernels,
            planned_steps=steps,
            method=recipe.trained,
            shortcuts=prepared.shortcuts,
            # Rows end to end go through other kernels than these.
            probe=recipe.precision.probe and not (isinstance(inputs, TextInputs) and prepared.goes_unpadded()),
        )
    return broadcast_object_list(decided)[0]


def warm_start_head(
    prepared: Prepared, model: nn.Module, train_rows: Dataset, rows: TrainingRows
) -> dict[str, Any] | None:
    """Fit the classification layer on the untrained network's features of the rows with a label, see `training.warm_start`;
    of a DeiT with two heads both, each to the labels: they are what the teacher says of most rows.

    Args:
        rows: the same training rows, as activations of the frozen layers where these are cached.

    Returns:
        What result.json says of it, see `begin_with`; None where no such layer can be fitted.
    """
    recipe, inputs = prepared.recipe, prepared.inputs
    labels_N = np.asarray(train_rows["label"][:])
    able = np.flatnonzero(labels_N != UNLABELED)
    drawn = sample_rows(inputs, train_rows, warm_start.MOST_ROWS, seed=recipe.train.seed, among=able)
    chosen = warm_start.with_every_class(drawn, labels_N)
    sample = train_rows.select(chosen)
    weights_C = head_weights(prepared)
    in_files = isinstance(inputs, TextInputs) or not recipe.data.augment_copies
    first_N = first_sources(prepared.splits.train.select(chosen), by_content=in_files)
    labels, batch_size = np.asarray(sample["label"][:]), recipe.train.per_device_eval_batch_size
    # Pictures are named by the data's fingerprint and their row.
    shown = [c for c in ("row", *columns_of(inputs, labels=True)) if c in sample.column_names and c != "image"]
    settings = {
        "data": prepared.splits.fingerprint,
        "inputs": inputs.max_length if isinstance(inputs, TextInputs) else inputs.processor.to_json_string(),
        "autocast": str(prepared.autocast),
        "batch_size": batch_size,
        "cached_layers": rows.layer if rows.why is None else 0,
        "inverse_strength": prepared.head_fit.inverse_strength,
        "repeated": [(i, int(first)) for i, first in enumerate(first_N) if i != first],
        **({} if weights_C is None else {"class_weights": weights_C.tolist()}),
    }
    layers, encoded = classification_layers(model), sample.select_columns(shown)
    keys = [
        head_cache.key_of(model, layers, encoded, settings | ({"head": place} if place else {}))
        for place in range(len(layers))
    ]
    heads = [head for key in keys if (head := head_cache.read(key)) is not None]
    found = "as an earlier run on this machine fitted it to the same rows"
    if len(heads) < len(layers):
        try:
            with prepared.shortcuts.without_gradients.taken(model):
                features = warm_start.head_features(
                    model,
                    layers,
                    Rows(rows.train.select(chosen), columns_of(rows.inputs, labels=False)),
                    rows.inputs.collate,
                    batch_size=batch_size,
                    autocast=prepared.autocast,
                    progress="fit the head",
                )
        except warm_start.NotOfRows:
            kind = model.config.model_type
            logger.info("the head is not fitted: a row's logits are made of its tokens' in this %s", kind)
            return None
        heads = [
            warm_start.fit_head(
                features_ND,
                labels,
                len(prepared.splits.labels),
                inverse_strength=prepared.head_fit.inverse_strength,
                weights_N=None if weights_C is None else weights_C[labels],
                first_N=first_N,
            )
            for features_ND in features
        ]
        for key, head in zip(keys, heads, strict=True):
            head_cache.write(key, head)
        found = "fitted"
    return begin_with(prepared, layers, heads, found)


def begin_with(
    prepared: Prepared, layers: Sequence[nn.Linear], heads: Sequence[FittedHead], found: str
) -> dict[str, Any]:
    """Put fitted heads in the place of `layers`, or leave those as they are where the first explains too little of the
    labels.

    Args:
        found: how they were come by, for the log.

    Returns:
        `explained`, see `FittedHead`, and whether the head `fitted` is the model's now.
    """
    explained, least = heads[0].explained, prepared.head_fit.least_explained
    about = {"explained": round(explained, 4), "fitted": explained >= least}
    fresh = {m for name, module in prepared.model.named_modules() if name in prepared.fresh for m in module.modules()}
    trained = fresh.isdisjoint(layers)
    if explained < least:
        logger.info(
            "the head starts from %s: a fitted one explains %.2f of the labels' entropy, less than %g",
            "the checkpoint's weights" if trained else "random weights",
            explained,
            least,
        )
        return about
    logger.info(
        "the head starts %s%s: that explains %.2f of the labels' entropy",
        found,
        ", in the place of the checkpoint's" if trained else "",
        explained,
    )
    for layer, head in zip(layers, heads, strict=True):
        bias_C = head.bias_C
        if prepared.class_shifts is not None and layer is layers[0]:
            # What was fitted is what training compares with the labels: the logits after they were shifted.
            bias_C = bias_C - torch.tensor(prepared.class_shifts)
        set_layer(layer, head.weight_CD, bias_C)
    return about


def head_weights(prepared: Prepared) -> np.ndarray | None:
    """What a row of each class weighs when the head is fitted, shape (C,), so that it is fitted to what is trained on.

    That is how often `batching.sampling` draws it times its class weight. None: all the same.
    """
    weights, drawn = prepared.class_weights, prepared.drawn_per_class
    if weights is None and prepared.recipe.batching.sampling == "none":
        return None
    times = drawn / np.maximum(prepared.rows_per_class, 1)
    return times * (1.0 if weights is None else np.asarray(weights))


def mixout(prepared: Prepared, model: nn.Module) -> Mixout | None:
    """What mixes the pretrained weights in, which the model's encoder still has; None: nothing."""
    p = prepared.recipe.regularize.mixout
    return Mixout(pretrained_layers(model, prepared.fresh), p=p, seed=prepared.recipe.train.seed) if p else None


def what_trains(prepared: Prepared, model: nn.Module, *, epoch_steps: int, steps: int) -> list[TrainerCallback]:
    """What decides from step to step which weights train: gradual unfreezing, AdaLoRA's ranks.

    Args:
        epoch_steps, steps: optimiser steps of an epoch, and of the run.
    """
    if (unfreezing := gradual_unfreezing(prepared, model, epoch_steps=epoch_steps)) is not None:
        if late := waiting(unfreezing, steps):
            logger.info(
                "model.unfreeze_every: %d weights of the lower layers do not get their turn in %d steps", late, steps
            )
        return [unfreezing]
    return [RankSchedule(model)] if _has_ranks(model) else []


def gradual_unfreezing(prepared: Prepared, model: nn.Module, *, epoch_steps: int) -> GradualUnfreezing | None:
    """What `model.unfreeze_every` does; None: nothing. `model` as it is before training."""
    every = prepared.recipe.model.unfreeze_every
    if every is None:
        return None
    return GradualUnfreezing(model, steps=steps_between(every, epoch_steps), fresh=prepared.fresh)


def adapter_penalty(model: nn.Module) -> Callable[[], torch.Tensor] | None:
    """What an adapter adds to the loss; None: nothing."""
    return partial(orthogonality, model) if _has_ranks(model) else None


def _has_ranks(model: nn.Module) -> TypeGuard[PeftModel]:
    return isinstance(model, PeftModel) and model.active_peft_config.peft_type == PeftType.ADALORA


def keep_start(model: nn.Module, checkpoints: Path) -> None:
    """Save an adapter that begins with a part of the pretrained weights as it begins: its last form needs the first."""
    folder = checkpoints / adapters.START
    if isinstance(model, PeftModel) and cuts_out(model.active_peft_config) and not folder.exists():
        with replacing(folder) as path:
            adapters.save_adapter(model, path)


def regularizers(prepared: Prepared, model: nn.Module) -> list[TrainerCallback]:
    """What `regularize` does around each optimiser step."""
    wanted, found = prepared.recipe.regularize, []
    if wanted.gradient_noise.eta:
        noise = wanted.gradient_noise
        found.append(NoisyGradients(model, eta=noise.eta, gamma=noise.gamma, seed=prepared.recipe.train.seed))
    if parameters := prepared.penalised(model):
        found.append(ElasticNetSteps(parameters, l1=wanted.elastic_net.l1, l2=wanted.elastic_net.l2))
    return found
