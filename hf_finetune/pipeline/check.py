"""Refuse recipes whose checkpoint, teachers, data and network do not fit together, before anything is written."""

import numpy as np
from transformers import PreTrainedModel

from hf_finetune.augmentation.compose import favors_rare, needs_one_class
from hf_finetune.augmentation.generative.paraphraser import check_checkpoints
from hf_finetune.data.inputs import TextInputs, without_votes
from hf_finetune.data.labels import is_labeled, labels_of
from hf_finetune.distillation.config import Distill
from hf_finetune.distillation.feature_matching.compatibility import check_features
from hf_finetune.distillation.losses.base import LogitLoss
from hf_finetune.distillation.teachers.loading import Teachers
from hf_finetune.errors import InputError
from hf_finetune.hub.eval_results import check_benchmark
from hf_finetune.models.checkpoint_config import check_config, load_config, meta_classifier
from hf_finetune.models.freezing import train_only
from hf_finetune.models.heads.custom import with_head
from hf_finetune.models.kernels.dropout import drops_out
from hf_finetune.models.loading import Loaded
from hf_finetune.models.peft.compatibility import virtual_tokens
from hf_finetune.models.processors import position_limit
from hf_finetune.pipeline.add_adapter import with_adapter
from hf_finetune.pipeline.average_runs import check_averaged_runs
from hf_finetune.pipeline.batch_plan import micro_batch, step_batches
from hf_finetune.pipeline.context import Run, RunContext, RunData
from hf_finetune.pipeline.optimization import penalized_parameters
from hf_finetune.pipeline.out_of_fold import folds_of
from hf_finetune.pipeline.teacher_predictions import network_pair
from hf_finetune.pipeline.training_loss import training_loss
from hf_finetune.training.input_mixing import why_not_by_embeddings
from hf_finetune.training.regularization.mixout import pretrained_layers
from hf_finetune.utils.plain import short_repr


def check_checkpoint(context: RunContext) -> None:
    """Refuse what the checkpoint's family does not support, by its config alone, before weights and rows are read.

    Raises:
        InputError: naming the field and the family.
    """
    recipe, checkpoint = context.recipe, context.checkpoint
    check_config(checkpoint, recipe.task, recipe.model.surgery, recipe.model.from_config)
    _check_family(context)
    if recipe.pretrain.objective is not None:
        recipe.pretrain.objective.check_family(load_config(checkpoint))
    check_checkpoints(recipe.data.augment, checkpoint.limits)


def _check_family(context: RunContext) -> None:
    """Build the recipe's head, trainable weights and adapter on a network without weights."""
    recipe, checkpoint = context.recipe, context.checkpoint
    model, data = recipe.model, recipe.data
    selects_weights = model.trainable != "all" or model.trainable_pattern is not None
    if not (recipe.uses_adapter or selects_weights or model.has_custom_head or recipe.chunk_pooling):
        return
    if (network := meta_classifier(checkpoint, recipe.task, model.surgery, model.from_config)) is None:
        return
    network = with_head(Loaded(network, (), ()), model, recipe.chunk_pooling, seed=recipe.train.seed).model
    train_only(network, model.trainable, model.trainable_pattern)
    if not recipe.uses_adapter:
        return
    with_adapter(network, context, (), empty=True)
    prompt = 0 if recipe.adapter is None else virtual_tokens(recipe.adapter)
    limit = position_limit(network.config)
    if prompt and limit is not None and data.kind == "text" and data.max_length + prompt > limit:
        raise InputError(
            f"data.max_length: expected {limit - prompt} or less, got {data.max_length}: {checkpoint.name} has {limit} "
            f"positions, and the prompt takes {prompt}"
        )


def check_task(context: RunContext, data: RunData) -> None:
    """Refuse fields that the task of the rows does not have, before the network and teachers are loaded.

    Raises:
        InputError: naming the field, what it needs, and the task; or see `Task.check_judged`.
    """
    recipe, task = context.recipe, data.task
    objective, augment = recipe.objective, recipe.data.augment
    task.best_metric(recipe.evaluate.metric)
    task.choose_loss(objective.loss)
    for name, rows in (("validation", data.splits.validation), ("test", data.splits.test)):
        if rows is not None:
            labels = labels_of(rows)
            task.check_judged(labels[is_labeled(labels)], name)
    is_set = {
        "objective.teacher_precision": isinstance(objective, Distill) and objective.teacher_precision != "float32",
        "objective.label_smoothing": objective.label_smoothing > 0,
        "objective.class_weights": objective.class_weights is not None,
        "objective.logit_adjustment": objective.logit_adjustment > 0,
        "objective.r_drop": objective.r_drop > 0,
        "objective.contrast": objective.contrast > 0,
        "objective.mix": bool(objective.mix),
        "batching.sampling": recipe.batching.sampling != "none",
        "evaluate.extra": bool(recipe.evaluate.extra),
        "data.augment": bool(augment and not task.augments)
        or needs_one_class(augment)
        or (favors_rare(augment) and not task.has_rare),
        "model.pooling": recipe.model.pooling not in ("auto", "default"),
        "model.last_layers": recipe.model.last_layers > 1,
        "model.head": recipe.model.has_custom_head,
        "adapter.peft_type": recipe.uses_prompt_learning,
        "objective.kinds": recipe.compares_features,
        "pretrain.objective": recipe.pretrain.objective is not None,
    }
    for field, value in is_set.items():
        task.refuse(field, is_set=value)
    for kind in recipe.distillation_kinds:
        if isinstance(kind, LogitLoss) and task.activation in kind.refuses:
            raise InputError(
                f"objective.kinds: expected losses for {task.name} (SoftTargets, MatchLogits), got "
                f"{type(kind).__name__}: {kind.refuses[task.activation]}"
            )


def check_teachers(teachers: Teachers | None, context: RunContext, data: RunData) -> None:
    """Load the teachers, and refuse one that cannot predict the run's rows.

    Raises:
        InputError: see `Teachers.members` and `distillation.teachers.base.Teacher.check`.
    """
    for teacher in () if teachers is None else teachers.members:
        teacher.check(data.splits, data.inputs, context.recipe.data.augment, online=context.augments_online)


def check_run(run: Run, trial: PreTrainedModel) -> None:
    """Refuse fields that the data or the network do not support.

    Args:
        trial: the network as it will train, see `add_adapter.trial_network`.

    Raises:
        InputError: naming the field.
    """
    recipe, network = run.recipe, run.model.network
    if recipe.hub.benchmark is not None:
        check_benchmark(recipe.hub.benchmark)
        if run.data.splits.test is None:
            raise InputError(
                f"hub.benchmark {recipe.hub.benchmark}: expected labeled test rows, whose result it would be; name "
                "them by --test, or leave it out"
            )
    if recipe.batching.token_budget is None:
        step_batches(run, None)
    if recipe.evaluate.folds is not None:
        _check_folds(run, recipe.evaluate.folds)
    if recipe.train.uses_gradient_checkpointing and not network.supports_gradient_checkpointing:
        raise InputError(
            f"train.extra.gradient_checkpointing: expected false here: {network.config.model_type} does not support "
            "gradient checkpointing"
        )
    # These refuse unknown names of classes and of weights.
    training_loss(run)
    penalized_parameters(run, trial)
    check_mix(run, trial)
    check_averaged_runs(run)
    _check_distillation(run)
    if recipe.regularize.mixout and not pretrained_layers(trial, run.model.fresh):
        raise InputError(
            f"regularize.mixout: expected 0 here, got {recipe.regularize.mixout}: no linear layer of the encoder trains"
        )
    for name, value in (("r_drop", recipe.objective.r_drop), ("contrast", recipe.objective.contrast)):
        if value:
            _check_dropout(run, trial, f"objective.{name}", value)


def check_mix(run: Run, trial: PreTrainedModel) -> None:
    """Refuse mixing where forward passes have a single row, or the family does not accept word embeddings as input.

    Raises:
        InputError: naming the remedy.
    """
    recipe, inputs, rows = run.recipe, run.data.inputs, run.data.splits.train
    if not recipe.objective.mix:
        return
    operations = ", ".join(map(short_repr, recipe.objective.mix))
    if recipe.batching.token_budget is None and micro_batch(run).rows < 2:
        raise InputError(
            f"objective.mix: expected none here, got {operations}: a forward pass has a single row; raise "
            "train.per_device_train_batch_size"
        )
    if isinstance(inputs, TextInputs):
        sample = inputs.encode(rows.select(range(min(64, len(rows)))))
        lengths = np.asarray(sample["length"][:])
        # Without ids some families do not recognize padding: the batch needs some.
        if reason := why_not_by_embeddings(trial, inputs.collate(sample[[lengths.argmin(), lengths.argmax()]])):
            raise InputError(
                f"objective.mix: expected none here, got {operations}: {run.model.network.config.model_type} does "
                f"not accept word embeddings as input ({reason}); leave it out"
            )


def _check_distillation(run: Run) -> None:
    """Refuse teacher features that cannot be compared with the student's, and comparisons of a single row."""
    recipe, context = run.recipe, run.context
    if recipe.compares_features:
        check_features(network_pair(run), recipe.distillation_kinds, run.data.splits.train)
    if context.compares_rows and recipe.batching.token_budget is None and micro_batch(run).rows < 2:
        raise InputError(
            "objective.kinds: expected no RelationalKD and Contrastive here: they compare rows, and a forward pass has "
            "a single row; raise train.per_device_train_batch_size"
        )


def _check_dropout(run: Run, trial: PreTrainedModel, field: str, value: float) -> None:
    """Refuse R-Drop and contrast where both forward passes give the same output."""
    inputs, rows = run.data.inputs, run.data.splits.train.select(range(1))
    encoded = inputs.for_inference().encode(rows)
    if not drops_out(trial, without_votes(inputs.collate(encoded[:]))):
        raise InputError(
            f"{field}: expected 0 here, got {value}: the model has no dropout, so that "
            "two forward passes give the same output; set model.dropout to 0.1"
        )


def _check_folds(run: Run, folds: int) -> None:
    if (processes := run.context.processes) > 1:
        raise InputError(f"evaluate.folds: expected null with {processes} processes, got {folds}; start one")
    folds_of(run)


def note_on_compared_rows(run: Run) -> tuple[str, ...]:
    """Note that the result depends on the micro-batches, where losses compare the rows of a forward pass."""
    batch = micro_batch(run)
    parts = batch.accumulation * run.context.processes
    if not run.context.compares_rows or parts == 1:
        return ()
    return (
        f"objective.kinds: RelationalKD and Contrastive compare the rows of a forward pass, and a step of "
        f"{batch.rows_per_step} rows is cut into {parts}: another number of parts trains other weights",
    )
