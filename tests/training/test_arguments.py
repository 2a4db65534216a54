"""What of `train.extra` is passed through, and what is refused before anything is written."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_finetune.errors import InputError
from hf_finetune.training.arguments import training_arguments


def arguments(folder: Path, extra: dict[str, Any]):
    return training_arguments(
        folder,
        learning_rate=1e-3,
        metric="accuracy",
        mixed_precision="no",
        device=torch.device("cpu"),
        extra=extra,
        num_train_epochs=1.0,
        seed=0,
    )


def test_extra_is_passed_through_and_numbers_in_text_are_numbers(tmp_path: Path) -> None:
    """YAML reads 1e-7 as text."""
    made = arguments(tmp_path, {"adam_epsilon": "1e-7", "adam_beta2": 1, "lr_scheduler_kwargs": {"num_cycles": 1}})
    assert (made.adam_epsilon, made.adam_beta2, made.lr_scheduler_kwargs) == (1e-7, 1.0, {"num_cycles": 1})
    assert type(made.adam_beta2) is float
    assert arguments(tmp_path, {"report_to": [], "optim": "adamw_torch"}).optim == "adamw_torch"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"adam_beta1": "abc"}, "train.extra.adam_beta1: expected a number, got 'abc'"),
        ({"adam_beta1": None}, "train.extra.adam_beta1: expected a number, got None"),
        ({"dataloader_num_workers": 1.5}, "train.extra.dataloader_num_workers: expected a whole number, got 1.5"),
        ({"full_determinism": "yes"}, "train.extra.full_determinism: expected true or false, got 'yes'"),
        ({"optim": ["x"]}, r"train.extra.optim: expected text, got \['x'\]"),
        ({"optim": "sgdd"}, "train: .*sgdd"),
        ({"lr_scheduler_kwargs": 3}, "train.extra.lr_scheduler_kwargs: expected a mapping or text or null, got 3"),
        ({"optim_target_modules": 3}, "train.extra.optim_target_modules: expected null or text or a list, got 3"),
        ({"adam_bet1": 0.9}, "train: .*adam_bet1"),
        ({"save_strategy": "no"}, "train.extra.save_strategy: this is decided elsewhere"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, extra: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        arguments(tmp_path, extra)
    assert "\n" not in str(caught.value)
