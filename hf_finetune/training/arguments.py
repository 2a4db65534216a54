"""TrainingArguments of a run: the user's fields, and the settings that this package fixes."""

import typing
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DynamoBackend
from transformers import TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)
from transformers.training_args import trainer_log_levels

from hf_finetune.errors import InputError
from hf_finetune.models.contexts import input_errors
from hf_finetune.training.config import Train
from hf_finetune.training.optim.config import AdamW, Optimizer
from hf_finetune.training.precision import Format
from hf_finetune.utils.config import validated
from hf_finetune.utils.messages import did_you_mean, short

# Fixed, so that no run can be configured into a known defect of the stock Trainer.
FIXED = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    # A resumed run continues exactly: early stopping, order of the rows, optimizer.
    "restore_callback_states_from_checkpoint": True,
    "ignore_data_skip": False,
    "save_only_model": False,
    "save_total_limit": None,
    # The Trainer would log 0 in place of a loss that is not finite.
    "logging_nan_inf_filter": False,
    "logging_first_step": True,
    "average_tokens_across_devices": True,
    # The Trainer would drop columns that forward() does not name.
    "remove_unused_columns": False,
    "label_names": ["labels"],
    # Not read: objective.label_smoothing, batching.by_length and train.seed take their place.
    "label_smoothing_factor": 0.0,
    "train_sampling_strategy": "random",
    "dataloader_drop_last": False,
    "data_seed": None,
    "report_to": "none",
    "disable_tqdm": True,
}
CHANGEABLE = {"report_to", "logging_first_step"}
# Fields of the recipe that take the place of TrainingArguments.
SET_BY = {
    "optim": "optim.optimizer",
    "optim_args": "optim.optimizer",
    "optim_target_modules": "optim.optimizer",
    "adam_beta1": "optim.optimizer.beta1",
    "adam_beta2": "optim.optimizer.beta2",
    "adam_epsilon": "optim.optimizer.eps",
    "lr_scheduler_type": "train.lr_scheduler_type",
    "lr_scheduler_kwargs": "schedule",
    "warmup_steps": "train.warmup_steps",
    "save_steps": "train.save_steps",
    "output_dir": "--output",
    "metric_for_best_model": "evaluate.metric",
    "greater_is_better": "evaluate.metric",
    "bf16": "precision.mixed_precision",
    "fp16": "precision.mixed_precision",
    "tf32": "precision.float32_matmul",
    "use_cpu": "accelerate launch --cpu",
    "label_smoothing_factor": "objective.label_smoothing",
    "train_sampling_strategy": "batching.by_length",
    "length_column_name": "batching.by_length",
    "data_seed": "train.seed",
    "hub_model_id": "hub.repo_id",
    "hub_private_repo": "hub.private",
    "hub_revision": "hub.revision",
    "local_rank": "the launcher",
}
# What the run decides by itself, or computes in its own way without reading the argument; with the remedy.
DECIDED = {
    **dict.fromkeys(
        ("save_strategy", "save_total_limit", "save_only_model", "save_on_each_node", "enable_jit_checkpoint"),
        "every epoch and every signal saves a checkpoint, and the last two stay; train.save_steps and train.save_every "
        "save within an epoch, too",
    ),
    **dict.fromkeys(
        ("eval_strategy", "eval_steps", "load_best_model_at_end"),
        "every epoch is validated, and evaluate.metric chooses the weights",
    ),
    **dict.fromkeys(
        (
            *("prediction_loss_only", "eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object"),
            *("include_for_metrics", "batch_eval_metrics", "bf16_full_eval", "fp16_full_eval"),
        ),
        "validation has a loop of its own; train.per_device_eval_batch_size sets its batches",
    ),
    **dict.fromkeys(
        (
            *("dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
            *("dataloader_multiprocessing_context", "dataloader_in_order", "dataloader_drop_last"),
        ),
        "batches have a loader of their own; dataloader_num_workers sets its workers",
    ),
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "a run trains and evaluates in any case"),
    **dict.fromkeys(("hub_strategy", "hub_always_push"), "--push sends the finished run, once"),
    "resume_from_checkpoint": "--resume continues a run from its last checkpoint",
    "ddp_timeout": "processes wait a day for each other",
    "auto_find_batch_size": "`hf-finetune plan` estimates the memory; set train.per_device_train_batch_size",
}

BACKENDS = [backend.value.lower() for backend in DynamoBackend]
# Fields that change how the model is wrapped or saved, which this package's trainer does itself.
UNSUPPORTED = {
    "deepspeed": "DeepSpeed",
    **dict.fromkeys(("fsdp", "fsdp_config"), "FSDP"),
    "parallelism_config": "parallelism other than that over rows (--num-processes)",
    "use_liger_kernel": "a library of kernels",
    "liger_kernel_config": "a library of kernels",
}
# Fields whose values libraries refuse long after the start: name, condition, expectation.
RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("dataloader_num_workers", lambda number: number >= 0, "0 or more"),
    ("log_level", trainer_log_levels.__contains__, f"one of {', '.join(trainer_log_levels)}"),
    ("log_level_replica", trainer_log_levels.__contains__, f"one of {', '.join(trainer_log_levels)}"),
    ("gradient_checkpointing_kwargs", lambda options: set(options) <= {"use_reentrant"}, "use_reentrant alone"),
    ("torch_compile_backend", lambda name: name in BACKENDS, f"one of {', '.join(BACKENDS)}"),
)
# Fields that are passed on by name.
SHARED = {field.name for field in fields(Train)} & {field.name for field in fields(TrainingArguments)} - SET_BY.keys()
# Our own trackers write into the run's folder; those of transformers serve the other services.
SHARED -= {"report_to"}

# Peak learning rates by method, chosen on validation rows, see docs/benchmarks.md.
LEARNING_RATE = {"full": 1e-4, "top": 3e-4, "lora": 1e-3, "head": 1e-3}
# A pre-norm ViT forgets its pretraining at 1e-4 within a few steps, see docs/benchmarks.md.
IMAGE_LEARNING_RATE = {**LEARNING_RATE, "full": 2e-5, "top": 2e-5}
# The rate of plain LoRA on texts is for this width. Narrower networks take a higher rate, as with Adam
# (arXiv:2203.03466), up to this multiple. Measured at widths of 384 and 768.
LORA_WIDTH, MAX_LORA_FACTOR = 768, 2.0
# For random weights: DeiT's, under AdamW (arXiv:2012.12877). Not measured here.
SCRATCH_LEARNING_RATE = 5e-4


def default_learning_rate(
    method: str,
    task: str,
    optimizer: Optimizer = AdamW(),
    *,
    from_scratch: bool = False,
    plain_lora_width: int | None = None,
) -> float:
    """Return the default peak learning rate of a method on texts or images. PEFT methods count as lora.

    Args:
        from_scratch: whether all weights start at random.
        plain_lora_width: width of the encoder where the method is plain LoRA; None for other methods.
    """
    if from_scratch:
        return SCRATCH_LEARNING_RATE * optimizer.rate_factor
    is_image = task == "image-classification"
    rates = IMAGE_LEARNING_RATE if is_image else LEARNING_RATE
    rate = rates.get(method, rates["lora"]) * optimizer.rate_factor
    if plain_lora_width is None or is_image:
        return rate
    return rate * min(MAX_LORA_FACTOR, LORA_WIDTH / plain_lora_width)


def training_arguments(
    folder: Path,
    train: Train,
    *,
    metric: str,
    greater_is_better: bool,
    mixed_precision: Format,
    device: torch.device,
    saving: bool = True,
    choosing: bool = True,
) -> TrainingArguments:
    """Build the TrainingArguments of a run.

    Args:
        folder: takes the checkpoints.
        train: the recipe's section, with the learning rate and the micro-batches of this run.
        metric: validation metric that chooses the epoch.
        greater_is_better: whether a greater metric is better.
        saving: False: write no checkpoints, and keep the last weights.
        choosing: False: keep the last weights, and score no validation rows.

    Raises:
        InputError: `train.extra` has a field that TrainingArguments lacks, that is fixed or set elsewhere, or whose
            value has another type.
    """
    arguments: dict[str, Any] = {
        **FIXED,
        **{name: getattr(train, name) for name in SHARED},
        **_checked(_without_trackers(train)),
        **({} if saving else {"save_strategy": "no"}),
        **({} if saving and choosing else {"load_best_model_at_end": False}),
        **({} if choosing else {"eval_strategy": "no"}),
        "metric_for_best_model": metric,
        "greater_is_better": greater_is_better,
        "bf16": mixed_precision == "bf16",
        "fp16": mixed_precision == "fp16",
        "use_cpu": device.type == "cpu",
    }
    # Some fields need packages or files that may be absent.
    with input_errors("train"):
        built = TrainingArguments(str(folder), **arguments)
    assert isinstance(built.report_to, list), "TrainingArguments makes one"
    _check_reports(built.report_to)
    # With several GPUs and no launcher the Trainer would wrap the model in DataParallel, without mixed precision, and
    # multiply the loss, which is a mean over all rows of the step already, by the number of GPUs.
    built._n_gpu = min(built.n_gpu, 1)
    return built


def _without_trackers(train: Train) -> dict[str, Any]:
    """Return `train.extra` without the trackers of `train.trackers`."""
    services = train.extra.get("report_to")
    if services in train.trackers:
        return train.extra | {"report_to": []}
    if isinstance(services, list):
        return train.extra | {"report_to": [name for name in services if name not in train.trackers]}
    return train.extra


def _check_reports(report_to: Sequence[str]) -> None:
    """Refuse reports to services that are unknown or whose package is missing, which the Trainer finds much later."""
    available = get_available_reporting_integrations() if report_to else []
    for name in report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            known = f"; one of {', '.join(INTEGRATION_TO_CALLBACK)}"
            raise InputError(f"train.extra.report_to: no such service {name!r}{did_you_mean(name, available) or known}")
        if name not in available:
            raise InputError(f"train.extra.report_to: {name} needs its package; install it, or leave {name} out")


def _checked(extra: dict[str, Any]) -> dict[str, Any]:
    """Check the user's further arguments: TrainingArguments accepts values of any type and fails when it uses them."""
    hints = typing.get_type_hints(TrainingArguments)
    for name in extra:
        if name in ("hub_token", "push_to_hub"):
            raise InputError(
                f"train.extra.{name}: a token does not belong in a recipe; `hf auth login`, then --push REPO"
            )
        if name in UNSUPPORTED:
            raise InputError(f"train.extra.{name}: {UNSUPPORTED[name]} is not supported; leave it out")
        if name in DECIDED:
            raise InputError(f"train.extra.{name}: the run decides this itself ({DECIDED[name]}); remove it")
        if name in SET_BY:
            raise InputError(f"train.extra.{name}: {SET_BY[name]} sets it; remove it")
        if name in SHARED:
            raise InputError(f"train.extra.{name}: train.{name} sets it; remove it")
        if name in FIXED and name not in CHANGEABLE:
            raise InputError(f"train.extra.{name}: this is fixed, for exact results; remove it")
    checked = {n: validated(v, hints[n], f"train.extra.{n}") if n in hints else v for n, v in extra.items()}
    for name, fits, expected in RANGES:
        if checked.get(name) is not None and not fits(checked[name]):
            raise InputError(f"train.extra.{name}: expected {expected}, got {short(checked[name])}")
    return checked
