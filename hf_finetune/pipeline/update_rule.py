"""How the weights of a run are updated: learning rate and schedule, which weights how, and by what shortcuts."""

from __future__ import annotations

from torch import nn

from hf_finetune.data.inputs import TextInputs
from hf_finetune.models.families import width_of
from hf_finetune.models.kernels.shortcuts import Shortcuts
from hf_finetune.pipeline.context import PreparedRun, RunContext
from hf_finetune.training.arguments import default_learning_rate
from hf_finetune.training.optim.config import AdamW
from hf_finetune.training.optim.rate_groups import Rates
from hf_finetune.training.optim.schedule_config import ResolvedSchedule, resolve
from hf_finetune.training.optim.update_rule import UpdateRule
from hf_finetune.training.regularization.elastic_net import penalized


def learning_rate(run: PreparedRun) -> float:
    """Peak learning rate of the run."""
    recipe = run.recipe
    plain_lora = recipe.method == "lora" and recipe.adapter is None and recipe.lora.variant == "plain"
    is_text = isinstance(run.data.inputs, TextInputs)
    return recipe.train.learning_rate or default_learning_rate(
        recipe.effective_method,
        recipe.task,
        recipe.optim.optimizer,
        from_scratch=recipe.model.from_config is not None,
        plain_lora_width=width_of(run.model.network.config) if plain_lora and is_text else None,
    )


def schedule(context: RunContext) -> ResolvedSchedule:
    """The learning-rate schedule."""
    recipe = context.recipe
    return resolve(
        recipe.train.lr_scheduler_type,
        recipe.schedule,
        warmup_steps=recipe.train.warmup_steps,
        optimizer=recipe.optim.optimizer,
    )


def update_rule(run: PreparedRun) -> UpdateRule:
    """Optimizer, schedule and rates of the recipe."""
    optim = run.recipe.optim
    rates = Rates(optim.head_learning_rate, optim.layer_decay, optim.lora_plus_ratio, run.model.fresh)
    return UpdateRule(optim.optimizer, schedule(run.context), rates, trains_words_sparsely(run))


def penalized_parameters(run: PreparedRun, network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that `regularize.elastic_net` is on, of the network as it trains.

    Raises:
        InputError: see `elastic_net.penalized`.
    """
    elastic_net = run.recipe.regularize.elastic_net
    return penalized(network, elastic_net.parameters) if elastic_net.on else {}


def trains_words_sparsely(run: PreparedRun) -> bool:
    """Whether the words that occur train alone; only our own AdamW can do so."""
    recipe, context, network = run.recipe, run.context, run.model.network
    if not isinstance(run.data.inputs, TextInputs):
        # Not every image network names what stands there in place of word embeddings (EfficientNet).
        return False
    if context.processes > 1 and context.device.type == "cuda":
        # NCCL does not add up sparse gradients.
        return False
    if context.augments_online or recipe.uses_adapter:
        # Typing errors and synonyms bring words that are in no row.
        return False
    if recipe.optim.word_embeddings != "sparse" or not isinstance(recipe.optim.optimizer, AdamW):
        return False
    table = network.get_input_embeddings()
    if not isinstance(table, nn.Embedding) or not table.weight.requires_grad:
        return False
    # Of the words that occur the optimizer keeps the weights itself: what else changes the table would be undone.
    return not any(p is table.weight for p in penalized_parameters(run, network).values())


def shortcuts(context: RunContext) -> Shortcuts:
    """What training computes in another way than the library does."""
    model = context.recipe.model
    # A layer that is computed again for its gradient would find the pass's mask drawn, and other numbers after it.
    fast_dropout = model.fast_dropout and not context.recipe.train.uses_gradient_checkpointing
    return Shortcuts(fast_dropout, model.fused_layers, model.fused_projections)
