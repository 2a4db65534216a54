"""Build the classifier to train: a checkpoint with the head, surgery and frozen layers of the recipe."""

import logging
from dataclasses import replace

from transformers import PreTrainedModel

from hf_finetune.config.data import ImageData
from hf_finetune.data.image_decoding import upright_size
from hf_finetune.data.image_processing import blank, check_augmentable, probe_indices, process
from hf_finetune.data.inputs import ImageInputs
from hf_finetune.distillation.config import Distill
from hf_finetune.errors import InputError
from hf_finetune.models import freezing
from hf_finetune.models.families import FAMILIES, UNKNOWN
from hf_finetune.models.heads.custom import with_head
from hf_finetune.models.kernels.narrow_last_layer import narrow_to_first_token
from hf_finetune.models.loading import Loaded, load_classifier
from hf_finetune.models.patches import drop_patches, shrink_for, takes_sizes
from hf_finetune.models.surgery.reinit import refuse_frozen, reinitialized_layers
from hf_finetune.pipeline.batch_plan import trains_unpadded
from hf_finetune.pipeline.context import RunContext, RunData, RunModel
from hf_finetune.training.config import Averaging
from hf_finetune.training.first_row import check_first_row
from hf_finetune.training.flops import patches

logger = logging.getLogger("hf_finetune")

TWO_HEADS = (
    "deit: the head of the class token learns the labels, that of the distillation token the teacher; a prediction is "
    "the mean of their logits"
)


def build_model(context: RunContext, data: RunData) -> RunModel:
    """Load the checkpoint as a classifier of the data's classes, and change it as the recipe asks.

    Raises:
        InputError: see `load_classifier`; or a change that the network or the images do not allow.
    """
    recipe, checkpoint = context.recipe, context.checkpoint
    model = recipe.model
    two_heads = _has_two_heads(context)
    loaded = load_classifier(
        checkpoint,
        task=data.task.hub_task(recipe.kind),
        labels=data.splits.labels,
        problem_type=data.task.problem_type,
        dropout=model.dropout,
        attn_implementation=model.attn_implementation,
        seed=recipe.train.seed,
        from_config=model.from_config,
        surgery=model.surgery,
        distilled=two_heads,
        keep_head=recipe.pretrain.objective is None,
    )
    for note in loaded.notes:
        logger.info(note)
    loaded = with_head(loaded, model, recipe.chunk_pooling, seed=recipe.train.seed)
    network = loaded.model
    data.task.start(network, loaded.fresh)
    check_first_row(checkpoint.name, network, data.inputs.for_inference())
    notes = (*loaded.notes, *_freeze_batch_norm(context, network), *([TWO_HEADS] if two_heads else []))
    built = _fit_to_images(RunModel(network, loaded.fresh, notes=notes), context, data)
    _freeze(context, loaded)
    unpadded = trains_unpadded(context, data.inputs, network)
    if model.narrow_last_layer and not unpadded and not recipe.compares_features:
        narrow_to_first_token(network)
    return built


def _has_two_heads(context: RunContext) -> bool:
    """Whether a DeiT learns from its teacher by its distillation token (arXiv:2012.12877).

    It must remain an instance of its stock class: without an adapter, which is loaded onto the class with one head, and
    without a pooling or head of the recipe's. It also needs teacher logits: only these train that token's head.

    Raises:
        InputError: the class token's head would learn nothing.
    """
    recipe, config = context.recipe, context.checkpoint.config
    family = FAMILIES.get(config.get("model_type", ""), UNKNOWN)
    if not isinstance(recipe.objective, Distill) or not family.distillation_token or config.get("auto_map"):
        return False
    if recipe.uses_adapter or recipe.model.has_custom_head or not recipe.objective.uses_teacher_logits:
        return False
    if not recipe.objective.uses_labels:
        raise InputError(
            "objective.labels_weight: expected a number above 0 for deit, whose class token learns the labels and its "
            "distillation token the teacher, got 0; or name a pooling, model.pooling cls, for one head"
        )
    return True


def _fit_to_images(model: RunModel, context: RunContext, data: RunData) -> RunModel:
    """Set what depends on the size of the images. A model of texts is returned as it is.

    Raises:
        InputError: the images differ in size, or the recipe augments or reduces images that cannot be.
    """
    config, inputs, rows, network = context.recipe.data, data.inputs, data.splits.train, model.network
    if not isinstance(inputs, ImageInputs) or config.kind != "image":
        return model
    # One image of each size, so that different sizes are refused now. Their content does not matter.
    sizes = dict.fromkeys(upright_size(rows[i]["image"]) for i in probe_indices(len(rows)).tolist())
    shape_CHW = tuple(process(inputs.processor, [blank(*size) for size in sizes]).shape[1:])
    if config.augment:
        check_augmentable(inputs.processor, rows["image"], "data.augment")
    notes = (*model.notes, *_note_on_small_images(config, data, network, min(shape_CHW[-2:])))
    drop_patches(network, context.recipe.model.patch_drop)
    shrink = None
    if config.low_resolution is not None:
        shrink = shrink_for(network, config.low_resolution)
        shrink.shape(*shape_CHW[-2:])
    return replace(model, shrink=shrink, image_tokens=patches(network.config, shape_CHW), notes=notes)


def _note_on_small_images(config: ImageData, data: RunData, network: PreTrainedModel, side: int) -> tuple[str, ...]:
    """Propose a lower resolution where images are enlarged to twice their size or more."""
    largest = max(max(upright_size(image)) for image in data.splits.train[:8]["image"])
    if config.low_resolution is not None or 2 * largest > side or not takes_sizes(network.config):
        return ()
    return (
        f"the images have {largest} pixels a side and are read at {side}: --data.low-resolution {side // 2} would "
        "train most of the steps at about a quarter of the work",
    )


def _freeze_batch_norm(context: RunContext, network: PreTrainedModel) -> tuple[str, ...]:
    """Freeze the pretrained statistics of BatchNorm, and note where random weights have none.

    Raises:
        InputError: statistics that change in training beside averages of the weights, which need others.
    """
    model = context.recipe.model
    from_random = model.from_config is not None
    random_parts = [network] if from_random else reinitialized_layers(network, model.surgery)
    freezing.freeze_batch_norm(network, besides=random_parts)
    if not any(freezing.batch_norms(part) for part in random_parts):
        return ()
    cause = "model.from_config" if from_random else "ReinitTopLayers in model.surgery"
    if context.recipe.averaging != Averaging():
        raise InputError(
            f"averaging: expected none beside {cause} of a network with BatchNorm, whose statistics are those of the "
            "last weights, not of averaged ones; leave it out"
        )
    return (
        f"{cause}: BatchNorm normalizes by the rows of each forward pass, so the result depends on how a step is cut "
        "into passes and shared by processes",
    )


def _freeze(context: RunContext, loaded: Loaded) -> None:
    """Freeze all weights that the recipe does not train.

    Raises:
        InputError: see `models.freezing`.
    """
    recipe, network = context.recipe, loaded.model
    if recipe.effective_method == "head":
        freezing.freeze_body(network, loaded.fresh)
    if recipe.effective_method == "top":
        freezing.train_top(network, recipe.model.top_layers)
    freezing.freeze_lower(network, recipe.model.frozen_layers)
    freezing.train_only(network, recipe.model.trainable, recipe.model.trainable_pattern, loaded.fresh)
    refuse_frozen(network, recipe.model.surgery, recipe.model.frozen_layers)
    if recipe.optim.word_embeddings == "frozen" and recipe.kind == "text":
        network.get_input_embeddings().requires_grad_(False)
