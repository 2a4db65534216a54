"""Refuse what cannot end well, before anything is written: a checkpoint, a teacher, parts that do not go together."""

from __future__ import annotations

import numpy as np
from transformers import PreTrainedModel

from hf_finetune.augmentation.generative.paraphraser import check_checkpoints
from hf_finetune.data.inputs import TextInputs
from hf_finetune.distillation.features.compatibility import check_features
from hf_finetune.distillation.teachers.loading import Teachers
from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint_config import check_config, meta_classifier
from hf_finetune.models.freezing import train_only
from hf_finetune.models.heads.custom import with_head
from hf_finetune.models.kernels.dropout import drops_out
from hf_finetune.models.loading import Loaded
from hf_finetune.models.peft.compatibility import virtual_tokens
from hf_finetune.models.processors import position_limit
from hf_finetune.pipeline.ask_teacher import network_pair
from hf_finetune.pipeline.batching import micro_batch, step_batches
from hf_finetune.pipeline.build_model import with_adapter
from hf_finetune.pipeline.context import PreparedRun, RunContext, RunData
from hf_finetune.pipeline.objective import training_loss
from hf_finetune.pipeline.update_rule import penalized_parameters
from hf_finetune.pretraining.models import check_pretrainable
from hf_finetune.training.input_mixing import why_not_by_embeddings
from hf_finetune.training.regularization.mixout import pretrained_layers
from hf_finetune.utils.plain import short_repr


def check_checkpoint(context: RunContext) -> None:
    """Refuse what the checkpoint's family cannot do, by its config alone: no weights and no rows have been read yet.

    Raises:
        InputError: naming the field and the family.
    """
    recipe, checkpoint = context.recipe, context.checkpoint
    check_config(checkpoint, recipe.task, recipe.model.surgery, recipe.model.from_config)
    _check_family(context)
    if recipe.pretrain.objective is not None:
        check_pretrainable(checkpoint, recipe.pretrain.objective)
    check_checkpoints(recipe.data.augment)


def _check_family(context: RunContext) -> None:
    """Put the recipe's head, choice of weights and adapter on a network without weights."""
    recipe, checkpoint = context.recipe, context.checkpoint
    model, data = recipe.model, recipe.data
    chosen = model.trainable != "all" or model.trainable_pattern is not None
    if not (recipe.uses_adapter or chosen or model.has_custom_head):
        return
    if (network := meta_classifier(checkpoint, recipe.task, model.surgery, model.from_config)) is None:
        return
    network = with_head(Loaded(network, (), ()), model, seed=recipe.train.seed).model
    train_only(network, model.trainable, model.trainable_pattern)
    if not recipe.uses_adapter:
        return
    with_adapter(network, context, (), empty=True)
    prompt = 0 if recipe.adapter is None else virtual_tokens(recipe.adapter)
    limit = position_limit(network.config)
    if prompt and limit is not None and data.kind == "text" and data.max_length + prompt > limit:
        raise InputError(
            f"data.max_length: {data.max_length} and the prompt's {prompt} tokens, but {checkpoint.name} has positions "
            f"for {limit} tokens; give {limit - prompt} or less"
        )


def check_teachers(teachers: Teachers | None, context: RunContext, data: RunData) -> None:
    """Load the teachers, and refuse one that cannot predict the rows as the run will ask for it.

    Raises:
        InputError: see `Teachers.members` and `distillation.teachers.base.Teacher.check`.
    """
    for teacher in () if teachers is None else teachers.members:
        teacher.check(data.splits, data.inputs, context.recipe.data.augment, online=context.augments_online)


def check_run(run: PreparedRun, trial: PreTrainedModel) -> None:
    """Refuse what the data and the network, as it trains, do not go with.

    Args:
        trial: see `build_model.trial_network`.

    Raises:
        InputError: naming the field.
    """
    recipe, network = run.recipe, run.model.network
    if recipe.batching.token_budget is None:
        step_batches(run, None)
    if recipe.train.uses_gradient_checkpointing and not network.supports_gradient_checkpointing:
        raise InputError(
            f"train.extra.gradient_checkpointing: expected false here: {network.config.model_type} cannot compute its "
            "activations again"
        )
    _check_named_classes_and_weights(run, trial)
    check_mix(run, trial)
    _check_distillation(run)
    if recipe.regularize.mixout and not pretrained_layers(trial, run.model.fresh):
        raise InputError(
            f"regularize.mixout: expected 0 here, got {recipe.regularize.mixout}: no linear layer of the encoder trains"
        )
    if recipe.objective.r_drop:
        _check_dropout(run, trial)


def _check_named_classes_and_weights(run: PreparedRun, trial: PreTrainedModel) -> None:
    """Build what names classes or weights of the model: a name that stands for none is refused there."""
    training_loss(run)
    penalized_parameters(run, trial)


def check_mix(run: PreparedRun, trial: PreTrainedModel) -> None:
    """Refuse mixing where a forward pass has one row alone, or the family cannot read mixed word embeddings.

    Raises:
        InputError: naming the remedy.
    """
    recipe, inputs, rows = run.recipe, run.data.inputs, run.data.splits.train
    if not recipe.objective.mix:
        return
    operations = ", ".join(map(short_repr, recipe.objective.mix))
    if recipe.batching.token_budget is None and micro_batch(run).rows < 2:
        raise InputError(
            f"objective.mix: expected none here, got {operations}: a forward pass has one row, and no other to mix it "
            "with; raise train.per_device_train_batch_size"
        )
    if isinstance(inputs, TextInputs):
        some = inputs.encode(rows.select(range(min(64, len(rows)))))
        lengths = np.asarray(some["length"][:])
        # Padding is what a family may count otherwise without ids.
        if reason := why_not_by_embeddings(trial, inputs.collate(some[[lengths.argmin(), lengths.argmax()]])):
            raise InputError(
                f"objective.mix: expected none here, got {operations}: {run.model.network.config.model_type} cannot be "
                f"given word embeddings in place of texts ({reason}); leave it out"
            )


def _check_distillation(run: PreparedRun) -> None:
    """Refuse a teacher whose hidden states cannot be compared with the student's, or rows compared with none."""
    recipe, context = run.recipe, run.context
    if recipe.compares_features:
        check_features(network_pair(run), recipe.distillation_kinds, run.data.splits.train)
    if context.compares_rows and recipe.batching.token_budget is None and micro_batch(run).rows < 2:
        raise InputError(
            "objective.kinds: expected no RelationalKD and Contrastive here: a forward pass has one row, and no other "
            "to compare it with; raise train.per_device_train_batch_size"
        )


def _check_dropout(run: PreparedRun, trial: PreTrainedModel) -> None:
    """Refuse R-Drop where both passes would give the same."""
    inputs, rows = run.data.inputs, run.data.splits.train.select(range(1))
    encoded = inputs.for_inference().encode(rows)
    if not drops_out(trial, inputs.collate(encoded[:])):
        raise InputError(
            f"objective.r_drop: expected 0 here, got {run.recipe.objective.r_drop}: the model drops nothing out, so "
            "that two passes give the same; set model.dropout to 0.1"
        )


def note_on_compared_rows(run: PreparedRun) -> tuple[str, ...]:
    """A note where what the rows of a step are compared with depends on how the step is cut."""
    cut = micro_batch(run)
    parts = cut.accumulation * run.context.processes
    if not run.context.compares_rows or parts == 1:
        return ()
    return (
        f"objective.kinds: RelationalKD and Contrastive compare the rows of a forward pass, and a step of "
        f"{cut.rows_per_step} rows is cut into {parts}: cut otherwise, it trains to other weights",
    )
