"""Put the adapter of the recipe on the network, and fit the head to the features that training starts from."""

import copy
from dataclasses import replace
from typing import cast

from transformers import PreTrainedModel

from hf_finetune.models import freezing
from hf_finetune.models.modules import without_adapter
from hf_finetune.models.peft import adapters
from hf_finetune.models.peft.compatibility import check_added_layers, starts_as_identity
from hf_finetune.models.surgery.layers import AddLayers
from hf_finetune.pipeline.context import RunContext, RunModel
from hf_finetune.pipeline.fit_head import fit_head
from hf_finetune.pipeline.run_setup import RunSetup


def add_adapter(setup: RunSetup) -> RunSetup:
    """Put the recipe's adapter on the network, and fit the head. Without an adapter the setup is unchanged.

    The head is fitted to the plain network unless the adapter changes what the head reads from the start.
    """
    recipe = setup.run.recipe
    if not recipe.uses_adapter:
        return setup
    head_first = recipe.adapter is None or starts_as_identity(recipe.adapter)
    if head_first:
        setup = fit_head(setup)
    # A dry run is too short for AdaLoRA to reduce ranks.
    steps = None if setup.dry_run else setup.encoded.steps
    network = with_adapter(setup.network, setup.run.context, setup.run.model.fresh, steps=steps)
    setup = replace(setup, network=network)
    return setup if head_first else fit_head(setup)


def trial_network(context: RunContext, model: RunModel) -> PreTrainedModel:
    """Return the network as it will train. The adapter is put on a copy, because the head is fitted before it is added.

    Raises:
        InputError: see `with_adapter`.
    """
    if not context.recipe.uses_adapter:
        return model.network
    return with_adapter(copy.deepcopy(model.network), context, model.fresh)


def with_adapter(
    network: PreTrainedModel,
    context: RunContext,
    fresh: tuple[str, ...],
    *,
    steps: int | None = None,
    empty: bool = False,
) -> PreTrainedModel:
    """Put the recipe's adapter on the network, except on layers that stay frozen.

    Args:
        fresh, steps, empty: see `adapters.add_adapter`.

    Returns:
        A `PeftModel`, which has all attributes of the `PreTrainedModel` inside it.

    Raises:
        InputError: see `adapters.add_adapter`.
    """
    recipe = context.recipe
    config = recipe.adapter or adapters.lora_config(network, recipe.lora, fresh=fresh)
    if any(isinstance(step, AddLayers) for step in recipe.model.surgery):
        check_added_layers(network, config)
    adapted = adapters.add_adapter(network, config, fresh, seed=recipe.train.seed, steps=steps, empty=empty)
    adapted.active_peft_config.revision = recipe.model.revision
    freezing.freeze_lower(without_adapter(adapted), recipe.model.frozen_layers)
    return cast(PreTrainedModel, adapted)
