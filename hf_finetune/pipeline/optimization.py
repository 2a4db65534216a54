"""Learning rate, schedule and update rule of a run, its TrainingArguments, and the kernels that speed up training."""

from dataclasses import replace
from pathlib import Path

from torch import nn
from transformers import TrainingArguments

from hf_finetune.data.inputs import TextInputs
from hf_finetune.models.families import width_of
from hf_finetune.models.kernels.shortcuts import Shortcuts
from hf_finetune.pipeline.batch_plan import micro_batch
from hf_finetune.pipeline.context import Run, RunContext
from hf_finetune.training.arguments import default_learning_rate, training_arguments
from hf_finetune.training.optim.config import AdamW
from hf_finetune.training.optim.rate_groups import Rates
from hf_finetune.training.optim.schedule_config import ResolvedSchedule, resolve
from hf_finetune.training.optim.update_rule import UpdateRule
from hf_finetune.training.regularization.elastic_net import penalized


def learning_rate(run: Run) -> float:
    """Return the peak learning rate."""
    recipe = run.recipe
    plain_lora = recipe.method == "lora" and recipe.adapter is None and recipe.lora.variant == "plain"
    return recipe.train.learning_rate or default_learning_rate(
        recipe.effective_method,
        recipe.task,
        recipe.optim.optimizer,
        from_scratch=recipe.model.from_config is not None,
        plain_lora_width=width_of(run.model.network.config) if plain_lora and recipe.kind == "text" else None,
    )


def trainer_arguments(
    run: Run, checkpoints: Path, *, metric: str, greater_is_better: bool, saving: bool = True
) -> TrainingArguments:
    """Return the TrainingArguments of a run, see `training_arguments`."""
    batch = micro_batch(run)
    train = replace(
        run.recipe.train,
        num_train_epochs=run.recipe.train.epochs,
        learning_rate=learning_rate(run),
        per_device_train_batch_size=batch.rows,
        gradient_accumulation_steps=batch.accumulation,
        per_device_eval_batch_size=run.eval_batch_size,
    )
    return training_arguments(
        checkpoints,
        train,
        metric=metric,
        greater_is_better=greater_is_better,
        mixed_precision=run.context.mixed_precision,
        device=run.context.device,
        saving=saving,
        # With folds the validation rows train, too.
        choosing=run.recipe.evaluate.folds is None,
    )


def schedule(context: RunContext) -> ResolvedSchedule:
    """Return the learning-rate schedule, with the defaults of the optimizer."""
    recipe, train = context.recipe, context.recipe.train
    return resolve(
        train.lr_scheduler_type, recipe.schedule, warmup_steps=train.warmup_steps, optimizer=recipe.optim.optimizer
    )


def update_rule(run: Run) -> UpdateRule:
    """Return the optimizer, its schedule and its learning rates."""
    optim = run.recipe.optim
    rates = Rates(optim.head_learning_rate, optim.layer_decay, optim.lora_plus_ratio, run.model.fresh)
    return UpdateRule(optim.optimizer, schedule(run.context), rates, has_sparse_embeddings(run))


def penalized_parameters(run: Run, network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters under `regularize.elastic_net`, of the network with its adapter.

    Raises:
        InputError: see `elastic_net.penalized`.
    """
    elastic_net = run.recipe.regularize.elastic_net
    return penalized(network, elastic_net.parameters) if elastic_net.on else {}


def has_sparse_embeddings(run: Run) -> bool:
    """Whether only the embeddings of words in the training texts are updated."""
    recipe, context, network = run.recipe, run.context, run.model.network
    if not isinstance(run.data.inputs, TextInputs):
        # Image networks need not have `get_input_embeddings` (EfficientNet has none).
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
    # The sparse update keeps its own copy of these weights, and would undo the penalty's changes of the table.
    return not any(p is table.weight for p in penalized_parameters(run, network).values())


def shortcuts(context: RunContext) -> Shortcuts:
    """Return the faster computations that replace the library's in training."""
    model, train = context.recipe.model, context.recipe.train
    # Recomputed activations need the dropout masks of the first pass, which fast dropout does not reproduce.
    fast_dropout = model.fast_dropout and not train.uses_gradient_checkpointing
    return Shortcuts(fast_dropout, model.fused_layers, model.fused_projections)
