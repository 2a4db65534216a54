"""Build the training hooks of a recipe's techniques."""

import logging

from peft import PeftModel, PeftType
from transformers import PreTrainedModel

from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.optimization import penalized_parameters
from hf_finetune.pipeline.run_setup import RunSetup
from hf_finetune.training.adalora import AdaLora
from hf_finetune.training.hooks import Hook
from hf_finetune.training.input_mixing import InputMixing
from hf_finetune.training.low_resolution import LowResolution
from hf_finetune.training.optim.sam import SAM, Sharpness
from hf_finetune.training.regularization.contrast import SupervisedContrast
from hf_finetune.training.regularization.elastic_net import ElasticNetSteps
from hf_finetune.training.regularization.gradient_noise import NoisyGradients
from hf_finetune.training.regularization.mixout import Mixout, pretrained_layers
from hf_finetune.training.regularization.r_drop import RDrop
from hf_finetune.training.unfreezing import GradualUnfreezing, untrained_weights

logger = logging.getLogger("hf_finetune.run")


def build_hooks(setup: RunSetup) -> tuple[Hook, ...]:
    """Return a hook for each technique of the recipe, in the order of their calls.

    Args:
        setup: its network still has the pretrained weights, to which Mixout returns.
    """
    run, network = setup.run, setup.network
    recipe, seed = run.recipe, run.recipe.train.seed
    hooks: list[Hook] = []
    if run.model.shrink is not None and recipe.data.kind == "image":
        hooks.append(LowResolution(run.model.shrink, recipe.data.low_resolution_share))
    if recipe.objective.mix:
        hooks.append(InputMixing(recipe.objective.mix, seed))
    if recipe.objective.r_drop:
        hooks.append(RDrop(recipe.objective.r_drop, run.data.task.activation))
    if recipe.objective.contrast:
        hooks.append(SupervisedContrast(recipe.objective.contrast, recipe.objective.contrast_temperature))
    if (p := recipe.regularize.mixout) > 0:
        hooks.append(Mixout(pretrained_layers(network, run.model.fresh), p=p, seed=seed))
    if recipe.optim.sam_rho:
        hooks.append(SAM(Sharpness(recipe.optim.sam_rho, recipe.optim.sam_adaptive), run.context.device))
    if (noise := recipe.regularize.gradient_noise).eta:
        hooks.append(NoisyGradients(eta=noise.eta, gamma=noise.gamma, seed=seed))
    if parameters := penalized_parameters(run, network):
        elastic_net = recipe.regularize.elastic_net
        hooks.append(ElasticNetSteps(parameters, l1=elastic_net.l1, l2=elastic_net.l2))
    if isinstance(network, PeftModel) and network.active_peft_config.peft_type == PeftType.ADALORA:
        hooks.append(AdaLora(network, cuts=not setup.dry_run))
    unfreezing = gradual_unfreezing(run, network, epoch_steps=setup.encoded.epoch.steps)
    if unfreezing is not None and not setup.dry_run:
        if late := untrained_weights(unfreezing, setup.encoded.steps):
            logger.info(
                "model.unfreeze_every: %d weights of the lower layers stay frozen throughout the %d steps",
                late,
                setup.encoded.steps,
            )
        hooks.append(unfreezing)
    return tuple(hooks)


def gradual_unfreezing(run: Run, network: PreTrainedModel, *, epoch_steps: int) -> GradualUnfreezing | None:
    """Return the hook of `model.unfreeze_every` for a network that is not trained yet, or None."""
    every = run.recipe.model.unfreeze_every
    if every is None:
        return None
    return GradualUnfreezing(network, steps=max(1.0, every * epoch_steps), fresh=run.model.fresh)
