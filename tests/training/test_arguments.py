"""What of `train.extra` is passed through, and what is refused before anything is written."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from hf_finetune.errors import InputError
from hf_finetune.training.arguments import DECIDED, FIXED, SET_BY, SHARED, UNSUPPORTED, training_arguments
from hf_finetune.training.config import Train


def arguments(folder: Path, extra: dict[str, Any]):
    return training_arguments(
        folder,
        Train(learning_rate=1e-3, extra=extra),
        metric="accuracy",
        greater_is_better=True,
        mixed_precision="no",
        device=torch.device("cpu"),
    )


def test_extra_is_passed_through(tmp_path: Path) -> None:
    made = arguments(tmp_path, {"neftune_noise_alpha": 1e-7, "logging_first_step": False, "report_to": []})
    assert (made.neftune_noise_alpha, made.logging_first_step, made.report_to) == (1e-7, False, [])
    assert type(arguments(tmp_path, {"neftune_noise_alpha": 1}).neftune_noise_alpha) is float


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("optim", "optim.optimizer"),
        ("adam_beta2", "optim.optimizer.beta2"),
        ("adam_epsilon", "optim.optimizer.eps"),
        ("lr_scheduler_type", "train.lr_scheduler_type"),
        ("lr_scheduler_kwargs", "schedule"),
        ("warmup_steps", "train.warmup_steps"),
        ("save_steps", "train.save_steps"),
        ("metric_for_best_model", "evaluate.metric"),
        ("learning_rate", "train.learning_rate"),
    ],
)
def test_what_the_recipe_says_is_said_once(tmp_path: Path, name: str, field: str) -> None:
    with pytest.raises(InputError, match=rf"train.extra.{name}: {field} sets it; remove it"):
        arguments(tmp_path, {name: 1})


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            {"torch_empty_cache_steps": "abc"},
            "train.extra.torch_empty_cache_steps: expected a whole number or null, got 'abc'",
        ),
        ({"dataloader_num_workers": None}, "train.extra.dataloader_num_workers: expected a whole number, got None"),
        ({"dataloader_num_workers": 1.5}, "train.extra.dataloader_num_workers: expected a whole number, got 1.5"),
        ({"full_determinism": "yes"}, "train.extra.full_determinism: expected true or false, got 'yes'"),
        ({"ddp_backend": ["x"]}, r"train.extra.ddp_backend: expected text or null, got \['x'\]"),
        ({"accelerator_config": 3}, "train.extra.accelerator_config: expected a mapping or text or null, got 3"),
        ({"adam_bet1": 0.9}, "train: .*adam_bet1"),
        ({"save_strategy": "no"}, r"train.extra.save_strategy: the run decides this itself \(.*train.save_steps and"),
        ({"resume_from_checkpoint": "x"}, r"train.extra.resume_from_checkpoint: .*\(--resume continues"),
        ({"eval_steps": 5}, "train.extra.eval_steps: the run decides this itself"),
        ({"dataloader_pin_memory": True}, "train.extra.dataloader_pin_memory: .* dataloader_num_workers sets"),
        ({"logging_nan_inf_filter": True}, "train.extra.logging_nan_inf_filter: this is fixed"),
        ({"report_to": ["nowhere"]}, "train.extra.report_to: no such service 'nowhere'; one of .*tensorboard"),
        (
            {"report_to": "clearml"},
            "train.extra.report_to: clearml needs its package; install it, or leave clearml out",
        ),
        (
            {"deepspeed": {"zero_optimization": {"stage": 2}}},
            "train.extra.deepspeed: DeepSpeed is not supported; leave",
        ),
        ({"fsdp": "full_shard"}, "train.extra.fsdp: FSDP is not supported; leave it out"),
        ({"dataloader_num_workers": -1}, "train.extra.dataloader_num_workers: expected 0 or more, got -1"),
        ({"log_level": "loud"}, "train.extra.log_level: expected one of .*warning.*, got 'loud'"),
        ({"torch_compile_backend": "nowhere"}, "train.extra.torch_compile_backend: expected one of .*inductor"),
        ({"gradient_checkpointing_kwargs": {"x": 1}}, "gradient_checkpointing_kwargs: expected use_reentrant alone"),
        ({"accelerator_config": "nowhere.json"}, "train: .*No such file or directory: 'nowhere.json'"),
        ({"accelerator_config": {"nonsense": 1}}, "train: .*nonsense"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, extra: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        arguments(tmp_path, extra)
    assert "\n" not in str(caught.value)


def test_no_argument_is_ignored() -> None:
    """Each field of TrainingArguments is a field of the recipe, or refused by name, or one of these, which work."""
    passed_on = {
        *("torch_compile", "torch_compile_backend", "torch_compile_mode", "torch_empty_cache_steps"),
        *("gradient_checkpointing", "gradient_checkpointing_kwargs"),
        *("activation_checkpointing", "activation_checkpointing_kwargs"),
        *("use_cache", "neftune_noise_alpha", "full_determinism"),
        *("logging_strategy", "log_on_each_node", "log_level", "log_level_replica", "include_num_input_tokens_seen"),
        *("run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
        *("eval_delay", "eval_on_start", "dataloader_num_workers", "debug", "skip_memory_metrics"),
        *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph"),
        *("ddp_backend", "accelerator_config"),
    }
    stock = {field.name for field in fields(TrainingArguments)}
    assert stock - {*SHARED, *SET_BY, *DECIDED, *UNSUPPORTED, *FIXED, "hub_token", "push_to_hub"} == passed_on


def test_one_process_has_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: with more the Trainer would split each batch, and multiply its loss by their number."""

    def two_gpus(self: TrainingArguments) -> torch.device:
        self._n_gpu = 2
        return torch.device("cpu")

    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(two_gpus))
    assert TrainingArguments(str(tmp_path)).n_gpu == 2 and arguments(tmp_path, {}).n_gpu == 1
