"""A classifier without weights, built from its config alone: what does not fit it is refused before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, PreTrainedModel

from hf_finetune.models.loading import config_of
from hf_finetune.models.safety import LocalCheckpoint
from hf_finetune.models.surgery.operations import SurgeryStep, planned


def skeleton(
    checkpoint: LocalCheckpoint,
    task: Literal["text-classification", "image-classification"],
    surgery: Sequence[SurgeryStep] = (),
    from_config: Mapping[str, Any] | None = None,
) -> PreTrainedModel | None:
    """The modules that a checkpoint's config describes, with shapes but no memory behind them.

    Args:
        surgery: operations that the checkpoint will go through, see `models.surgery.operations`.
        from_config: fields of the config that are set otherwise, see `models.from_config`.

    Returns:
        None where foreign code, or a config that `load.load_classifier` will refuse, describes them.
    """
    if checkpoint.config.get("auto_map"):
        return None
    auto = AutoModelForSequenceClassification if task == "text-classification" else AutoModelForImageClassification
    config = config_of(checkpoint, False, from_config)
    if type(config) not in auto._model_mapping:
        return None
    with torch.device("meta"):
        return auto.from_config(planned(config, surgery))
