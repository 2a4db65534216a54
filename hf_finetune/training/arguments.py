"""TrainingArguments for a classifier: the user's fields, and the settings that this package decides itself."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from hf_finetune.errors import InputError
from hf_finetune.training.optim.config import AdamW, Optimizer
from hf_finetune.utils.config import validated

# Decided here, so that no run can be configured into a known defect of the stock Trainer.
DECIDED = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    # A resumed run goes on where it was: patience, order of the rows, optimizer and all.
    "restore_callback_states_from_checkpoint": True,
    "ignore_data_skip": False,
    "save_only_model": False,
    "save_total_limit": None,
    # The Trainer would log 0 in place of a loss that is not a number.
    "logging_nan_inf_filter": False,
    "logging_first_step": True,
    "average_tokens_across_devices": True,
    # Our collator names its columns itself; the Trainer drops those that forward() does not name.
    "remove_unused_columns": False,
    "label_names": ["labels"],
    # Set by objective.label_smoothing, batching.by_length and train.seed; nothing reads these.
    "label_smoothing_factor": 0.0,
    "train_sampling_strategy": "random",
    "dataloader_drop_last": False,
    "data_seed": None,
    "report_to": "none",
    "disable_tqdm": True,
}
MAY_CHANGE = {"report_to", "logging_first_step"}
# What the recipe sets in a field of its own.
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
}

# Peak learning rates by method. Chosen on validation rows, see docs/benchmarks.md.
LEARNING_RATE = {"full": 1e-4, "top": 3e-4, "lora": 1e-3, "head": 1e-3}
# A pre-norm ViT loses what it knows at 1e-4 within a few steps; see there too.
IMAGE_LEARNING_RATE = {**LEARNING_RATE, "full": 2e-5, "top": 2e-5}
# Plain LoRA on texts learns faster in a narrower network, as Adam's best rate does (arXiv:2203.03466): the rate above
# is for this width. Measured at 384 and 768; no network learns at more than so many times the rate above.
LORA_WIDTH, LORA_FASTEST = 768, 2.0
# Of random weights, which know nothing that could be lost: DeiT's, under AdamW (arXiv:2012.12877). Not measured here.
SCRATCH_LEARNING_RATE = 5e-4


def default_learning_rate(
    method: str,
    task: str,
    optimizer: Optimizer = AdamW(),
    *,
    from_scratch: bool = False,
    plain_lora_width: int | None = None,
) -> float:
    """Peak learning rate for `method` (a PEFT method counts as lora) on texts or images.

    Args:
        from_scratch: all weights start at random.
        plain_lora_width: of the encoder, where the method is LoRA without a variant; None: it is another one.
    """
    if from_scratch:
        return SCRATCH_LEARNING_RATE * optimizer.rate_factor
    is_image = task == "image-classification"
    rates = IMAGE_LEARNING_RATE if is_image else LEARNING_RATE
    rate = rates.get(method, rates["lora"]) * optimizer.rate_factor
    if plain_lora_width is None or is_image:
        return rate
    return rate * min(LORA_FASTEST, LORA_WIDTH / plain_lora_width)


def training_arguments(
    folder: Path,
    *,
    learning_rate: float,
    metric: str,
    greater_is_better: bool,
    mixed_precision: Literal["no", "bf16", "fp16"],
    device: torch.device,
    extra: dict[str, Any],
    saving: bool = True,
    **fields: Any,
) -> TrainingArguments:
    """Build the arguments of one run.

    Args:
        folder: where checkpoints go.
        learning_rate: peak rate, see `default_learning_rate`.
        metric: validation metric that chooses the epoch.
        greater_is_better: of that metric.
        extra: further TrainingArguments of the user's.
        saving: False: no checkpoint is written, and the last weights stay.
        **fields: fields of TrainingArguments by their own names.

    Raises:
        InputError: for a field that TrainingArguments does not have, one that is decided here, or a value of another
            type.
    """
    taken = (set(DECIDED) - MAY_CHANGE) | set(fields) | {"learning_rate", "bf16", "fp16", "use_cpu", "output_dir"}
    chosen: dict[str, Any] = {
        **DECIDED,
        **fields,
        **_checked(extra, taken),
        **({} if saving else {"save_strategy": "no", "load_best_model_at_end": False}),
        "learning_rate": learning_rate,
        "metric_for_best_model": metric,
        "greater_is_better": greater_is_better,
        "bf16": mixed_precision == "bf16",
        "fp16": mixed_precision == "fp16",
        "use_cpu": device.type == "cpu",
    }
    try:
        arguments = TrainingArguments(str(folder), **chosen)
    except (TypeError, ValueError) as error:
        raise InputError(f"train: {error}") from error
    # With several GPUs and no launcher the Trainer would put the model in a DataParallel, without mixed precision, and
    # multiply the loss, which is a mean over all rows of the step already, by their number.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _checked(extra: dict[str, Any], taken: set[str]) -> dict[str, Any]:
    """The user's further arguments, by their types: TrainingArguments takes any value, and fails when it is used."""
    for name in extra:
        if name in ("hub_token", "push_to_hub"):
            raise InputError(
                f"train.extra.{name}: a token does not belong in a recipe; `hf auth login`, then --push REPO"
            )
        if name in SET_BY:
            raise InputError(f"train.extra.{name}: {SET_BY[name]} sets it; remove it")
        if name in taken:
            raise InputError(f"train.extra.{name}: this is decided elsewhere in the recipe or fixed; remove it")
    hints = typing.get_type_hints(TrainingArguments)
    return {n: validated(v, hints[n], f"train.extra.{n}") if n in hints else v for n, v in extra.items()}
