"""What takes part in a training beside the loss: adapters' ranks, unfreezing, regularizers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeGuard

import torch
from peft import PeftModel, PeftType
from transformers import PreTrainedModel, TrainerCallback

from hf_finetune.pipeline.context import PreparedRun
from hf_finetune.pipeline.make_ready import ReadyRun
from hf_finetune.pipeline.update_rule import penalized_parameters
from hf_finetune.training.rank_schedule import RankSchedule, orthogonality
from hf_finetune.training.regularization.elastic_net import ElasticNetSteps
from hf_finetune.training.regularization.gradient_noise import NoisyGradients
from hf_finetune.training.regularization.mixout import Mixout, pretrained_layers
from hf_finetune.training.unfreezing import GradualUnfreezing, steps_between, waiting

logger = logging.getLogger("hf_finetune.run")


def mixout(run: PreparedRun, network: PreTrainedModel) -> Mixout | None:
    """What mixes the pretrained weights in, which the network's encoder still has; None: nothing."""
    p = run.recipe.regularize.mixout
    return Mixout(pretrained_layers(network, run.model.fresh), p=p, seed=run.recipe.train.seed) if p else None


def what_trains(ready: ReadyRun) -> list[TrainerCallback]:
    """What decides from step to step which weights train: gradual unfreezing, AdaLoRA's ranks."""
    network, steps = ready.network, ready.encoded.steps
    if (unfreezing := gradual_unfreezing(ready.run, network, epoch_steps=ready.encoded.epoch.steps)) is not None:
        if late := waiting(unfreezing, steps):
            logger.info(
                "model.unfreeze_every: %d weights of the lower layers do not get their turn in %d steps", late, steps
            )
        return [unfreezing]
    return [RankSchedule(network)] if _has_ranks(network) else []


def gradual_unfreezing(run: PreparedRun, network: PreTrainedModel, *, epoch_steps: int) -> GradualUnfreezing | None:
    """What `model.unfreeze_every` does; None: nothing. `network` as it is before training."""
    every = run.recipe.model.unfreeze_every
    if every is None:
        return None
    return GradualUnfreezing(network, steps=steps_between(every, epoch_steps), fresh=run.model.fresh)


def adapter_penalty(network: PreTrainedModel) -> Callable[[], torch.Tensor] | None:
    """What an adapter adds to the loss; None: nothing."""
    return partial(orthogonality, network) if _has_ranks(network) else None


def _has_ranks(network: PreTrainedModel) -> TypeGuard[PeftModel]:
    return isinstance(network, PeftModel) and network.active_peft_config.peft_type == PeftType.ADALORA


def regularizers(run: PreparedRun, network: PreTrainedModel) -> list[TrainerCallback]:
    """What `regularize` does around each optimizer step."""
    config = run.recipe.regularize
    callbacks: list[TrainerCallback] = []
    if config.gradient_noise.eta:
        noise = config.gradient_noise
        callbacks.append(NoisyGradients(network, eta=noise.eta, gamma=noise.gamma, seed=run.recipe.train.seed))
    if parameters := penalized_parameters(run, network):
        callbacks.append(ElasticNetSteps(parameters, l1=config.elastic_net.l1, l2=config.elastic_net.l2))
    return callbacks
