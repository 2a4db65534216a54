"""Load a checkpoint as a classifier in float32."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn
from transformers import DeiTForImageClassificationWithTeacher, PreTrainedConfig, PreTrainedModel

from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint import LocalCheckpoint
from hf_finetune.models.checkpoint_config import (
    AUTO_CLASS,
    ProblemType,
    Task,
    check_size,
    classifier_config,
    name_classes,
    set_dropout,
)
from hf_finetune.models.checkpoint_weights import compare_weights
from hf_finetune.models.contexts import input_errors, quiet, seeded
from hf_finetune.models.families import family_of
from hf_finetune.models.heads.words import score_words
from hf_finetune.models.modules import head_modules
from hf_finetune.models.surgery.attention import supports_sdpa
from hf_finetune.models.surgery.operations import SurgeryStep, apply_surgery, config_after
from hf_finetune.utils.plain import short_repr

# Spawn key that separates the random numbers of surgery from those of the model; both come from the run's seed.
SURGERY = 1


@dataclass(frozen=True)
class Loaded:
    """A classifier, and what loading it showed."""

    model: PreTrainedModel
    fresh: tuple[str, ...]
    """Modules that start from random weights because the checkpoint lacks them or has them in another shape. If all
    weights of the network are random: the head."""
    notes: tuple[str, ...]
    """Notes for the user, already logged at INFO."""


def load_classifier(
    local: LocalCheckpoint,
    *,
    task: Task,
    labels: Sequence[str],
    problem_type: ProblemType = "single_label_classification",
    dropout: float | None = None,
    attn_implementation: Literal["eager", "sdpa"] | None = None,
    seed: int = 0,
    from_config: Mapping[str, Any] | None = None,
    surgery: Sequence[SurgeryStep] = (),
    distilled: bool = False,
    keep_head: bool = True,
) -> Loaded:
    """Load a checkpoint as a classifier with float32 weights, whatever their stored dtype.

    Weights that the checkpoint lacks (the head, in some BERTs the pooler) are drawn from `seed`: all processes get the
    same ones, and torch's global generator stays as it was. A head for the same class names is kept and put into the
    order of `labels`; any other head is replaced.

    Args:
        labels: names of the outputs (classes, tags or targets), in their order.
        problem_type: as in the config of a model.
        dropout: rate of every dropout of the network, stochastic depth included; also written to the config. None: the
            config's rates.
        attn_implementation: None: eager without an accelerator, the library's choice with one.
        from_config: do not load the checkpoint's weights, but initialize the network at random, with these fields of
            the config changed, see `from_config.resized`.
        surgery: operations on the loaded model; their random numbers follow from `seed`, too.
        distilled: load DeiT with a second head, on the distillation token, see `modules.classification_layers`.
        keep_head: False: replace the head even if it is for the same classes.

    Raises:
        InputError: see `classifier_config` and `surgery.operations.config_after`; or the family has no sdpa attention,
            or a dropout that its config does not set; or the weights do not fit the config.
    """
    pretrained = from_config is None
    config = classifier_config(local, task, from_config)
    name_classes(config, labels)
    # The stock classes of tokens know no problem types.
    config.problem_type = None if task == "token-classification" else cast(Any, problem_type)
    if not config.to_dict().get("auto_map"):
        # Never the class that the checkpoint names: only DeiT has a second one, for students.
        config.architectures = [DeiTForImageClassificationWithTeacher.__name__] if distilled else []
    notes = list(local.notes)
    if dropout is not None and not set_dropout(config, dropout):
        notes.append(f"model.dropout: {config.model_type} has no dropout")
    if attn_implementation is None and not torch.accelerator.is_available():
        attn_implementation = "eager"
    if attn_implementation == "sdpa" and not supports_sdpa(config):
        raise InputError(f"model.attn_implementation: {config.model_type} has no sdpa attention; expected eager")
    config_after(config, surgery)
    if pretrained:
        check_size(local, config, task)
    model, info = _build(local, config, task, attn_implementation, seed, pretrained=pretrained)
    if dropout is not None:
        _check_dropout(model, dropout)
    if pretrained:
        fresh, weight_notes = compare_weights(local, model, info, seed, keep_head)
        notes += weight_notes
    else:
        fresh = tuple(head_modules(model))
        notes.append(f"{local.name}: none of its weights is used, all start at random from seed {seed}")
    if surgery:
        # From `seed` itself, new layers could get the very weights of a checkpoint that was made with the same seed.
        with seeded(int(np.random.SeedSequence([seed, SURGERY]).generate_state(1)[0])), quiet():
            model = apply_surgery(model, surgery)
        fresh = tuple(name for name, _ in model.named_modules() if name in fresh)
        notes.append(f"{local.name}: after surgery: {', '.join(map(short_repr, surgery))}")
    if task == "token-classification":
        score_words(model)
    # Adapters and cards name the checkpoint, not its folder in the cache.
    model.name_or_path = model.config.name_or_path = local.name
    return Loaded(model, fresh, tuple(notes))


def _build(
    local: LocalCheckpoint,
    config: PreTrainedConfig,
    task: Task,
    attn_implementation: str | None,
    seed: int,
    *,
    pretrained: bool,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Build the model with the checkpoint's weights, or with random ones, and return it with the loading info."""
    auto, options = AUTO_CLASS[task], {"dtype": torch.float32, "attn_implementation": attn_implementation}
    with input_errors(f"{local.name}: cannot be loaded as a classifier"), quiet(), seeded(seed):
        if not pretrained:
            return auto.from_config(config, **options), {}
        return auto.from_pretrained(
            local.folder,
            config=config,
            ignore_mismatched_sizes=True,
            weights_only=True,
            output_loading_info=True,
            trust_remote_code=local.trust_remote_code,
            **options,
        )


def _check_dropout(model: PreTrainedModel, rate: float) -> None:
    """Refuse a model with a dropout whose rate no config field sets."""
    graded = family_of(model.config).graded_dropout
    for name, module in model.named_modules():
        if graded is not None and name.endswith(f".{graded}"):
            continue
        if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d) and not math.isclose(module.p, rate):
            raise InputError(
                f"model.dropout: {name} keeps its own rate of {module.p}; "
                f"leave model.dropout unset for {model.config.model_type}"
            )
