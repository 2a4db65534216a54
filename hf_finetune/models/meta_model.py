"""A classifier without weights, from its config alone: what does not fit is refused before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_finetune.models.loading import AUTO_CLASS, Task, load_config
from hf_finetune.models.safety import LocalCheckpoint
from hf_finetune.models.surgery.operations import SurgeryStep, planned


def meta_classifier(
    checkpoint: LocalCheckpoint,
    task: Task,
    surgery: Sequence[SurgeryStep] = (),
    from_config: Mapping[str, Any] | None = None,
) -> PreTrainedModel | None:
    """The modules that a checkpoint's config describes, with shapes but no memory behind them.

    Args:
        surgery: operations that the checkpoint will go through, see `surgery.operations`.
        from_config: fields of the config to set otherwise, see `from_config.resized`.

    Returns:
        None where foreign code, or a config that `loading.load_classifier` will refuse, describes them.
    """
    if checkpoint.config.get("auto_map"):
        return None
    config = load_config(checkpoint, False, from_config)
    auto: Any = AUTO_CLASS[task]
    if type(config) not in auto._model_mapping:
        return None
    with torch.device("meta"):
        return auto.from_config(planned(config, surgery))
