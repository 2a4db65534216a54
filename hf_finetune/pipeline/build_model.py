"""A recipe's checkpoint as the classifier that will train."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from hf_finetune.config.recipe import Averaging, Distill, Recipe, TextData
from hf_finetune.data.image_decoding import decode
from hf_finetune.data.image_processing import check_augmentable, probe_indices
from hf_finetune.data.inputs import ImageInputs, Inputs
from hf_finetune.data.loading import Splits
from hf_finetune.errors import InputError
from hf_finetune.models import freezing
from hf_finetune.models.heads.custom import with_head
from hf_finetune.models.loading import Loaded, load_classifier
from hf_finetune.models.patches import Shrink, drop_patches, shrink_for, takes_sizes
from hf_finetune.models.safety import LocalCheckpoint
from hf_finetune.models.surgery.layers import begun_anew, refuse_frozen
from hf_finetune.models.trainable import train_only
from hf_finetune.training.flops import patches

TWO_HEADS = (
    "deit: the head of the class token learns the labels, that of the distillation token the teacher; the answer is the mean "
    "of their logits"
)


@dataclass(frozen=True)
class Loading:
    """A classifier before its first step."""

    loaded: Loaded
    shrink: Shrink | None
    picture_tokens: int | None
    notes: tuple[str, ...]
    """What its user should know."""


def load_model(recipe: Recipe, checkpoint: LocalCheckpoint, splits: Splits, inputs: Inputs) -> Loading:
    """The checkpoint as a classifier of the data's classes, as it will train.

    Raises:
        InputError: see `load_classifier`, and what changes the model after it.
    """
    data, model = recipe.data, recipe.model
    by_two_heads = learns_by_two_heads(recipe, checkpoint)
    loaded = load_classifier(
        checkpoint.name,
        task=recipe.task,
        labels=splits.labels,
        dropout=model.dropout,
        attn_implementation=model.attn_implementation,
        seed=recipe.train.seed,
        from_config=model.from_config,
        surgery=model.surgery,
        distilled=by_two_heads,
        keep_head=recipe.pretrain.objective is None,
        revision=checkpoint.commit,
        trust_remote_code=model.trust_remote_code,
    )
    # So that an adapter names its base as the user does, not the place in the cache it was read from.
    loaded.model.name_or_path = loaded.model.config.name_or_path = checkpoint.name
    loaded = with_own_head(loaded, recipe)
    shrink, picture_tokens, smaller = None, None, ()
    if isinstance(inputs, ImageInputs):
        # Of several, so that sizes that differ are refused now.
        picture = tuple(inputs.collate(splits.train[probe_indices(len(splits.train))])["pixel_values"].shape[1:])
        picture_tokens = patches(loaded.model.config, picture)
        if data.augment:
            check_augmentable(inputs.processor, splits.train["image"], "data.augment")
        smaller = _small_pictures(recipe, splits, loaded.model, min(picture[-2:]))
        drop_patches(loaded.model, model.patch_drop)
        if data.low_resolution is not None:
            shrink = shrink_for(loaded.model, data.low_resolution)
            shrink.shape(*picture[-2:])
    notes = _batch_norm(recipe, loaded.model)
    if recipe.trained == "head":
        freezing.freeze_body(loaded.model, loaded.fresh)
    if recipe.trained == "top":
        freezing.train_top(loaded.model, model.top_layers)
    freezing.freeze_lower(loaded.model, model.frozen_layers)
    train_only(loaded.model, model.trainable, model.trainable_pattern, loaded.fresh)
    refuse_frozen(loaded.model, model.surgery, model.frozen_layers)
    if recipe.optim.word_embeddings == "frozen" and isinstance(data, TextData):
        loaded.model.get_input_embeddings().requires_grad_(False)
    notes = (*notes, *((TWO_HEADS,) if by_two_heads else ()), *smaller)
    return Loading(loaded, shrink, picture_tokens, notes)


def _batch_norm(recipe: Recipe, model: PreTrainedModel) -> tuple[str, ...]:
    """Fix the statistics that pretraining has measured; of random weights there are none yet, which is to be said.

    Raises:
        InputError: statistics that go on changing, beside averages of the weights, which would need others.
    """
    from_random = recipe.model.from_config is not None
    measuring = [model] if from_random else begun_anew(model, recipe.model.surgery)
    freezing.freeze_batch_norm(model, besides=measuring)
    if not any(freezing.batch_norms(part) for part in measuring):
        return ()
    what = "model.from_config" if from_random else "ReinitTopLayers in model.surgery"
    if recipe.averaging != Averaging():
        raise InputError(
            f"averaging: expected none beside {what} of a network with BatchNorm, whose statistics are those of the "
            "last weights, not of averaged ones; leave it out"
        )
    return (
        f"{what}: BatchNorm normalises by the rows of each forward pass, so the result depends on how a step is cut "
        "into passes and shared by processes",
    )


def _small_pictures(recipe: Recipe, splits: Splits, model: nn.Module, side: int) -> tuple[str, ...]:
    """A note where the network reads the pictures at twice their own size or more, and would do with less."""
    largest = max(max(decode(image).size) for image in splits.train[:8]["image"])
    if recipe.data.low_resolution is not None or 2 * largest > side or not takes_sizes(model.config):
        return ()
    return (
        f"the pictures have {largest} pixels a side and are read at {side}: --data.low-resolution {side // 2} would train "
        "most of the steps at about a quarter of the work",
    )


def learns_by_two_heads(recipe: Recipe, checkpoint: LocalCheckpoint) -> bool:
    """Whether a DeiT learns its teacher by the distillation token (arXiv:2012.12877): as a stock class holds it, so neither
    with an adapter, which would be loaded onto the plain class, nor with a pooling or a head of the recipe's; nor where it is
    given its teacher's inside alone, of which that token's head would learn nothing.

    Raises:
        InputError: the class token's head would learn nothing.
    """
    config = checkpoint.config
    if not isinstance(recipe.objective, Distill) or config.get("model_type") != "deit" or config.get("auto_map"):
        return False
    if recipe.adapts or recipe.model.has_own_head or not recipe.objective.asks_answers:
        return False
    if not recipe.objective.asks_labels:
        raise InputError(
            "objective.labels_weight: expected a number above 0 for deit, whose class token learns the labels and its "
            "distillation token the teacher, got 0; or name a pooling, model.pooling cls, for one head"
        )
    return True


def with_own_head(loaded: Loaded, recipe: Recipe) -> Loaded:
    """The recipe's pooling and head on the classifier, see `heads.custom.with_head`."""
    model = recipe.model
    return with_head(
        loaded,
        pooling=model.pooling,
        last_layers=model.last_layers,
        head=model.head,
        head_width=model.head_width,
        head_activation=model.head_activation,
        seed=recipe.train.seed,
    )
