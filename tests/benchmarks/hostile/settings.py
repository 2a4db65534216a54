"""Attacks by files of fields, and by fields."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from helpers.damage import YAML_BOMBS

from hostile.bench import Attack, Bench


def setting_attacks() -> list[Attack]:
    """Files of fields, and fields whose libraries are not there."""

    def config(text: str, bench: Bench) -> list[Any]:
        (bench.folder / "run.yaml").write_text(text)
        return bench.train("--config", bench.folder / "run.yaml")

    extras: dict[str, Any] = {
        "report_to tensorboard": {"report_to": ["tensorboard"]},
        "report_to wandb": {"report_to": "wandb"},
        "report_to unknown": {"report_to": ["nowhere"]},
        "report_to all": {"report_to": "all"},
        "deepspeed": {"deepspeed": {"zero_optimization": {"stage": 2}}},
        "deepspeed file": {"deepspeed": "ds.json"},
        "fsdp": {"fsdp": "full_shard"},
        "fsdp true": {"fsdp": True},
        "fsdp_config": {"fsdp_config": {"min_num_params": 10}},
        "fsdp_config file": {"fsdp_config": "fsdp.json"},
        "tpu": {"tpu_num_cores": 8},
        "torch_compile backend": {"torch_compile": True, "torch_compile_backend": "nowhere"},
        "liger": {"use_liger_kernel": True},
        "tf32": {"tf32": True},
        "accelerator_config": {"accelerator_config": {"nonsense": 1}},
        "accelerator_config file": {"accelerator_config": "nowhere.json"},
        "parallelism_config": {"parallelism_config": {"tp_size": 2}},
        "ddp_backend": {"ddp_backend": "mpi"},
        "galore": {"optim_target_modules": ["x"]},
        "neftune": {"neftune_noise_alpha": "much"},
        "hub_token": {"hub_token": "x"},
        "push_to_hub": {"push_to_hub": True},
        "debug": {"debug": "nonsense"},
        "log_level": {"log_level": "loud"},
        "logging_steps": {"logging_steps": -3},
        "eval_delay that is text": {"eval_delay": "long"},
        "dataloader_num_workers": {"dataloader_num_workers": -1},
        "dataloader_prefetch_factor": {"dataloader_prefetch_factor": 2},
        "gradient_checkpointing_kwargs": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"x": 1}},
        "jit_mode_eval": {"jit_mode_eval": True},
        "full_determinism": {"full_determinism": True},
        "max_grad_norm": {"max_grad_norm": -1.0},
        "include_num_input_tokens_seen": {"include_num_input_tokens_seen": "nonsense"},
        "trackio": {"report_to": ["trackio"]},
        "mlflow": {"report_to": ["mlflow"]},
        "clearml": {"report_to": ["clearml"]},
        "project": {"project": 3},
        "auto_find_batch_size": {"auto_find_batch_size": True},
        "resume_from_checkpoint": {"resume_from_checkpoint": "x"},
        "save_steps": {"save_steps": 2},
        "unknown": {"nonsense": 1},
        "not a mapping": [1],
    }
    return [
        *(Attack(f"yaml, {name}", partial(config, text)) for name, text in YAML_BOMBS.items()),
        *(
            Attack(f"train.extra, {name}", partial(config, json.dumps({"train": {"extra": extra}})), (0, 2))
            for name, extra in extras.items()
        ),
        Attack("yaml flag, bomb", lambda b: b.train("--data.augment", YAML_BOMBS["nine anchors of ten"])),
    ]
