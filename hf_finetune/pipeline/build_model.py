"""Build the classifier that will train: a checkpoint with the recipe's head, surgery, frozen layers and adapter."""

from __future__ import annotations

import copy
from typing import Any, cast

from peft import PeftModel
from transformers import PreTrainedModel

from hf_finetune.config.data import ImageData
from hf_finetune.data.image_decoding import decode
from hf_finetune.data.image_processing import check_augmentable, probe_indices
from hf_finetune.data.inputs import ImageInputs
from hf_finetune.distillation.config import Distill
from hf_finetune.errors import InputError
from hf_finetune.models import freezing
from hf_finetune.models.families import stock_head
from hf_finetune.models.freezing import train_only
from hf_finetune.models.heads.custom import with_head
from hf_finetune.models.heads.stock import can_switch
from hf_finetune.models.kernels.narrow_last_layer import narrow_to_first_token
from hf_finetune.models.loading import Loaded, load_classifier
from hf_finetune.models.modules import without_adapter
from hf_finetune.models.patches import Shrink, drop_patches, shrink_for, takes_sizes
from hf_finetune.models.peft import adapters
from hf_finetune.models.peft.compatibility import check_added_layers
from hf_finetune.models.surgery.layers import AddLayers
from hf_finetune.models.surgery.reinit import refuse_frozen, reinitialized_layers
from hf_finetune.pipeline.batching import trains_unpadded
from hf_finetune.pipeline.context import Origin, PreparedRun, RunContext, RunData, RunModel
from hf_finetune.pipeline.run_folder import finished_run
from hf_finetune.training.config import Averaging
from hf_finetune.training.flops import patches
from hf_finetune.utils import hashing
from hf_finetune.utils.artifacts import ALONE_AFTER_A_RUN

# Weights that this package's quickstart brings, by SHA-256: a local copy of them is named as what it is.
KNOWN_WEIGHTS = {
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db": "sentence-transformers/all-MiniLM-L6-v2"
}
TWO_HEADS = (
    "deit: the head of the class token learns the labels, that of the distillation token the teacher; a prediction is "
    "the mean of their logits"
)
WITHOUT_ADAPTER = (
    "adapter: only model/ is saved, with the adapter merged; by itself it would need the checkpoint as {} left it"
)


def build_model(context: RunContext, data: RunData) -> RunModel:
    """Load the checkpoint as a classifier of the data's classes, with the recipe's head, surgery and frozen layers.

    Raises:
        InputError: see `load_classifier`, and what changes the model after it.
    """
    recipe, checkpoint = context.recipe, context.checkpoint
    model = recipe.model
    two_heads = _learns_by_two_heads(context)
    loaded = load_classifier(
        checkpoint,
        task=recipe.task,
        labels=data.splits.labels,
        dropout=model.dropout,
        attn_implementation=model.attn_implementation,
        seed=recipe.train.seed,
        from_config=model.from_config,
        surgery=model.surgery,
        distilled=two_heads,
        keep_head=recipe.pretrain.objective is None,
    )
    loaded = with_head(loaded, model, seed=recipe.train.seed)
    shrink, image_tokens, size_notes = _fit_to_images(context, data, loaded.model)
    notes = (*loaded.notes, *_fix_batch_norm(context, loaded.model), *([TWO_HEADS] if two_heads else []), *size_notes)
    _freeze(context, loaded)
    return RunModel(loaded.model, loaded.fresh, shrink, image_tokens, notes)


def trial_network(context: RunContext, model: RunModel) -> PreTrainedModel:
    """The network as it will train, to be looked at: an adapter is on a copy of it.

    The head is fitted before an adapter goes on the network itself, but one that does not fit is refused now.

    Raises:
        InputError: see `with_adapter`.
    """
    if not context.recipe.uses_adapter:
        return model.network
    return with_adapter(copy.deepcopy(model.network), context, model.fresh)


def find_origin(context: RunContext, network: PreTrainedModel, trial: PreTrainedModel) -> Origin:
    """Find out where the network's weights come from.

    Args:
        trial: see `trial_network`.

    Raises:
        InputError: an adapter that could not be pushed, as it needs what an earlier run left.
    """
    recipe, checkpoint = context.recipe, context.checkpoint
    weights = checkpoint.commit or hashing.of_files(*(checkpoint.weights or (checkpoint.folder / "config.json",)))
    before = finished_run(checkpoint.folder) or {}
    base_changed = _base_changed(context, network)
    if before and isinstance(trial, PeftModel) and not recipe.model.base_model:
        # Under an adapter lies what that run left, and not the checkpoint that it began from.
        if adapters.mergeable(trial):
            base_changed = base_changed or "the run before it"
        elif recipe.hub.repo_id is not None:
            raise InputError(f"hub.repo_id: {ALONE_AFTER_A_RUN.format(before['name'])}")
    started_from = {name: before[name] for name in ("name", "labels", "method")} if before else None
    return Origin(weights, _base_model(context, weights, before), base_changed, started_from)


def _base_model(context: RunContext, weights: str, before: dict[str, Any]) -> str | None:
    """Hub id of what the weights come from; None where it is not known, or they come from nothing.

    Args:
        weights: see `Origin.weights`.
        before: result.json of the run that the checkpoint comes from; {}: from none.
    """
    model, checkpoint = context.recipe.model, context.checkpoint
    if model.from_config is not None:
        return None
    known = checkpoint.name if checkpoint.commit else KNOWN_WEIGHTS.get(weights) or before.get("base_model")
    return model.base_model or known


def _base_changed(context: RunContext, network: PreTrainedModel) -> str | None:
    """See `Origin.base_changed`."""
    recipe = context.recipe
    if recipe.model.surgery:
        return "surgery"
    if recipe.pretrain.objective is not None:
        return "pretraining"
    # A field of the config, by which the stock class pools otherwise than the checkpoint's own.
    pooling = recipe.model.pooling
    if recipe.model.from_config is None and pooling != "default" and can_switch(network.config, pooling):
        own = type(network.config).from_pretrained(context.checkpoint.folder)
        return None if stock_head(own) == stock_head(network.config) else "model.pooling"
    return None


def _learns_by_two_heads(context: RunContext) -> bool:
    """Whether a DeiT learns from its teacher by the distillation token (arXiv:2012.12877).

    It does as a stock class holds it: neither with an adapter, which would be loaded onto the plain class, nor with a
    pooling or head of the recipe's; nor where the teacher gives hidden states alone, of which that token's head would
    learn nothing.

    Raises:
        InputError: the class token's head would learn nothing.
    """
    recipe, config = context.recipe, context.checkpoint.config
    if not isinstance(recipe.objective, Distill) or config.get("model_type") != "deit" or config.get("auto_map"):
        return False
    if recipe.uses_adapter or recipe.model.has_custom_head or not recipe.objective.uses_teacher_logits:
        return False
    if not recipe.objective.uses_labels:
        raise InputError(
            "objective.labels_weight: expected a number above 0 for deit, whose class token learns the labels and its "
            "distillation token the teacher, got 0; or name a pooling, model.pooling cls, for one head"
        )
    return True


def _fit_to_images(
    context: RunContext, data: RunData, network: PreTrainedModel
) -> tuple[Shrink | None, int | None, tuple[str, ...]]:
    """What makes images smaller, the patches of one, and a note on their size; nothing of texts.

    Raises:
        InputError: the images differ in size, cannot be changed, or cannot be made smaller, where that is asked for.
    """
    config, inputs, rows = context.recipe.data, data.inputs, data.splits.train
    if not isinstance(inputs, ImageInputs) or config.kind != "image":
        return None, None, ()
    # Of several, so that sizes that differ are refused now.
    shape_CHW = tuple(inputs.collate(rows[probe_indices(len(rows))])["pixel_values"].shape[1:])
    image_tokens = patches(network.config, shape_CHW)
    if config.augment:
        check_augmentable(inputs.processor, rows["image"], "data.augment")
    notes = _note_on_small_images(config, data, network, min(shape_CHW[-2:]))
    drop_patches(network, context.recipe.model.patch_drop)
    if config.low_resolution is None:
        return None, image_tokens, notes
    shrink = shrink_for(network, config.low_resolution)
    shrink.shape(*shape_CHW[-2:])
    return shrink, image_tokens, notes


def _note_on_small_images(config: ImageData, data: RunData, network: PreTrainedModel, side: int) -> tuple[str, ...]:
    """A note where the network reads the images at twice their own size or more, and would do with less."""
    largest = max(max(decode(image).size) for image in data.splits.train[:8]["image"])
    if config.low_resolution is not None or 2 * largest > side or not takes_sizes(network.config):
        return ()
    return (
        f"the images have {largest} pixels a side and are read at {side}: --data.low-resolution {side // 2} would "
        "train most of the steps at about a quarter of the work",
    )


def _fix_batch_norm(context: RunContext, network: PreTrainedModel) -> tuple[str, ...]:
    """Fix the statistics that pretraining has measured; a note where random weights have none yet.

    Raises:
        InputError: statistics that go on changing, beside averages of the weights, which would need others.
    """
    model = context.recipe.model
    from_random = model.from_config is not None
    measuring = [network] if from_random else reinitialized_layers(network, model.surgery)
    freezing.freeze_batch_norm(network, besides=measuring)
    if not any(freezing.batch_norms(part) for part in measuring):
        return ()
    what = "model.from_config" if from_random else "ReinitTopLayers in model.surgery"
    if context.recipe.averaging != Averaging():
        raise InputError(
            f"averaging: expected none beside {what} of a network with BatchNorm, whose statistics are those of the "
            "last weights, not of averaged ones; leave it out"
        )
    return (
        f"{what}: BatchNorm normalizes by the rows of each forward pass, so the result depends on how a step is cut "
        "into passes and shared by processes",
    )


def _freeze(context: RunContext, loaded: Loaded) -> None:
    """Leave those weights trainable that the recipe trains.

    Raises:
        InputError: see `models.freezing`.
    """
    recipe, network = context.recipe, loaded.model
    if recipe.effective_method == "head":
        freezing.freeze_body(network, loaded.fresh)
    if recipe.effective_method == "top":
        freezing.train_top(network, recipe.model.top_layers)
    freezing.freeze_lower(network, recipe.model.frozen_layers)
    train_only(network, recipe.model.trainable, recipe.model.trainable_pattern, loaded.fresh)
    refuse_frozen(network, recipe.model.surgery, recipe.model.frozen_layers)
    if recipe.optim.word_embeddings == "frozen" and recipe.kind == "text":
        network.get_input_embeddings().requires_grad_(False)


def with_adapter(
    network: PreTrainedModel,
    context: RunContext,
    fresh: tuple[str, ...],
    *,
    steps: int | None = None,
    empty: bool = False,
) -> PreTrainedModel:
    """Put the recipe's adapter on the network, none of it on the layers that stay frozen.

    Returns:
        A `PeftModel`, which hands on what a `PreTrainedModel` has.

    Args:
        fresh, steps, empty: see `adapters.add_adapter`.

    Raises:
        InputError: see there.
    """
    recipe = context.recipe
    config = recipe.adapter or adapters.lora_config(network, recipe.lora, fresh=fresh)
    if any(isinstance(step, AddLayers) for step in recipe.model.surgery):
        check_added_layers(network, config)
    adapted = adapters.add_adapter(network, config, fresh, seed=recipe.train.seed, steps=steps, empty=empty)
    adapted.active_peft_config.revision = recipe.model.revision
    freezing.freeze_lower(without_adapter(adapted), recipe.model.frozen_layers)
    return cast(PreTrainedModel, adapted)


def narrow_last_layer(run: PreparedRun) -> None:
    """Compute the last layer for the first token alone, where the recipe allows it and the head reads no other.

    Raises:
        InputError: see `batching.trains_unpadded`.
    """
    if not trains_unpadded(run) and run.recipe.model.narrow_last_layer and not run.recipe.compares_features:
        narrow_to_first_token(run.model.network)
