"""Everything a run needs before its first step: data, tokenizer or processor, model, all of it checked."""

from __future__ import annotations

import copy
import dataclasses

from accelerate import PartialState
from peft import PeftModel
from torch import nn

from hf_finetune import digests, teacher, teacher_states
from hf_finetune.apply import quiet_libraries
from hf_finetune.checks import check
from hf_finetune.codec import spelled
from hf_finetune.data.compose import leaves
from hf_finetune.data.image import decode
from hf_finetune.data.inputs import ImageInputs, Inputs, TextInputs
from hf_finetune.data.load import Splits, load
from hf_finetune.data.pixels import check_changeable
from hf_finetune.data.text_sentences import MixHalves
from hf_finetune.errors import InputError
from hf_finetune.models import adapters, freeze
from hf_finetune.models.adapter_fit import virtual_tokens
from hf_finetune.models.dropout import drops_out
from hf_finetune.models.first_token import first_token_alone
from hf_finetune.models.layer_surgery import refuse_frozen
from hf_finetune.models.load import Loaded, check_surgery, load_classifier
from hf_finetune.models.patch_surgery import image_size_after
from hf_finetune.models.patches import drop_patches, shrink_for, takes_sizes
from hf_finetune.models.pooled import with_head
from hf_finetune.models.position_surgery import length_after
from hf_finetune.models.processors import load_image_processor, load_tokenizer, position_limit
from hf_finetune.models.safety import LocalCheckpoint, inspect_checkpoint
from hf_finetune.models.skeleton import skeleton
from hf_finetune.models.trainable import train_only
from hf_finetune.no_effect import without_effect
from hf_finetune.prepared import Prepared
from hf_finetune.recipe import Distill, Recipe, TextData
from hf_finetune.rewording.cached import check_checkpoints
from hf_finetune.training import precision
from hf_finetune.training.flops import patches
from hf_finetune.training.mixout import pretrained_layers
from hf_finetune.training.soft_labels import why_not_by_embeddings

# Weights that this package's quickstart brings, by SHA-256: a local copy of them is named as what it is.
KNOWN_WEIGHTS = {
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db": "sentence-transformers/all-MiniLM-L6-v2"
}

WITHOUT_ADAPTER = (
    "adapter: only model/ is saved, with the adapter merged; by itself it would need the checkpoint as surgery left it"
)


def prepare(recipe: Recipe) -> Prepared:
    """Load and check everything that can be wrong, before anything is written.

    Raises:
        InputError: see `checks.check`, `data.load.load` and `models.load`.
    """
    check(recipe)
    quiet_libraries()
    device = precision.default_device()
    state = PartialState(cpu=device.type == "cpu")
    mixed_precision = precision.resolve_mixed_precision(recipe.precision.mixed_precision, device)
    data, model = recipe.data, recipe.model
    checkpoint = inspect_checkpoint(
        model.checkpoint, revision=model.revision, trust_remote_code=model.trust_remote_code
    )
    # By name, not by its place in the cache: what is refused is then named as the user did.
    which = {"revision": checkpoint.commit, "trust_remote_code": model.trust_remote_code}
    check_surgery(checkpoint.name, model.surgery, task=recipe.task, **which)
    _check_family(recipe, checkpoint)
    check_checkpoints(data.augment)
    splits = load_splits(recipe)
    inputs: Inputs
    if isinstance(data, TextData):
        inputs = TextInputs(
            load_tokenizer(
                checkpoint.name,
                max_length=data.max_length,
                sample=splits.train["text"][:200],
                positions=length_after(model.surgery),
                **which,
            ),
            data.max_length,
        )
    else:
        inputs = image_inputs(recipe, checkpoint)
    taught_by = teacher_of(recipe, splits)
    if taught_by is not None and data.augment and data.augment_copies == 0:
        teacher.check_views(taught_by, inputs, splits.train[0])
    loaded = load_classifier(
        checkpoint.name,
        task=recipe.task,
        labels=splits.labels,
        dropout=model.dropout,
        attn_implementation=model.attn_implementation,
        seed=recipe.train.seed,
        surgery=model.surgery,
        **which,
    )
    # So that an adapter names its base as the user does, not the place in the cache it was read from.
    loaded.model.name_or_path = loaded.model.config.name_or_path = checkpoint.name
    loaded = _with_head(loaded, recipe)
    shrink, picture_tokens, smaller = None, None, ()
    if isinstance(inputs, ImageInputs):
        picture = tuple(inputs.collate(splits.train[:1])["pixel_values"].shape[1:])
        picture_tokens = patches(loaded.model.config, picture)
        if data.augment:
            check_changeable(inputs.processor, decode(splits.train[0]["image"]), "data.augment")
        smaller = _small_pictures(recipe, splits, loaded.model, min(picture[-2:]))
        drop_patches(loaded.model, model.patch_drop)
        if data.low_resolution is not None:
            shrink = shrink_for(loaded.model, data.low_resolution)
            shrink.shape(*picture[-2:])
    freeze.freeze_batch_norm(loaded.model)
    if recipe.trained == "head":
        freeze.freeze_body(loaded.model, loaded.fresh)
    if recipe.trained == "top":
        freeze.train_top(loaded.model, model.top_layers)
    freeze.freeze_lower(loaded.model, model.frozen_layers)
    train_only(loaded.model, model.trainable, model.trainable_pattern, loaded.fresh)
    refuse_frozen(loaded.model, model.surgery, model.frozen_layers)
    if recipe.optim.word_embeddings == "frozen" and isinstance(data, TextData):
        loaded.model.get_input_embeddings().requires_grad_(False)
    # An adapter on a copy: the head is fitted before it goes on, but one that does not fit is refused now.
    as_trained = with_adapter(copy.deepcopy(loaded.model), recipe, loaded.fresh) if recipe.adapts else loaded.model
    weights = checkpoint.commit or digests.of_files(*checkpoint.weights)
    prepared = Prepared(
        recipe=recipe,
        splits=splits,
        inputs=inputs,
        model=loaded.model,
        fresh=loaded.fresh,
        device=device,
        mixed_precision=mixed_precision,
        base_model=model.base_model or (checkpoint.name if checkpoint.commit else KNOWN_WEIGHTS.get(weights)),
        weights=weights,
        notes=(
            *splits.notes,
            *loaded.notes,
            *smaller,
            *without_effect(recipe),
            *((WITHOUT_ADAPTER,) if recipe.adapts and model.surgery else ()),
        ),
        processes=state.num_processes,
        shrink=shrink,
        picture_tokens=picture_tokens,
        teacher=None if taught_by is None else taught_by.weights,
    )
    # What these refuse is refused now, rather than when training starts.
    if recipe.batching.token_budget is None:
        prepared.batches(None)
    _check_objective(prepared, as_trained)
    prepared = dataclasses.replace(prepared, notes=(*prepared.notes, *rows_compared(prepared)))
    if not prepared.goes_unpadded() and model.narrow_last_layer and not prepared.compares_insides:
        first_token_alone(loaded.model)
    return prepared


def teacher_of(recipe: Recipe, splits: Splits) -> teacher.Teacher | None:
    """The recipe's teacher, loaded until `teacher.forget`; None: it has none.

    Raises:
        InputError: see `teacher.load_teacher`.
    """
    match recipe.objective:
        case Distill(teacher=checkpoint):
            kind = "text" if isinstance(recipe.data, TextData) else "image"
            trusted = recipe.model.trust_remote_code
            return teacher.load_teacher(checkpoint, splits.labels, kind, trust_remote_code=trusted)
        case _:
            return None


def image_inputs(recipe: Recipe, checkpoint: LocalCheckpoint) -> ImageInputs:
    """What makes the network's input of the recipe's pictures."""
    model = recipe.model
    processor = load_image_processor(
        checkpoint.name,
        image_size=image_size_after(model.surgery),
        revision=checkpoint.commit,
        trust_remote_code=model.trust_remote_code,
    )
    return ImageInputs(processor, decode_once=recipe.data.decode_once, cache_gb=recipe.batching.cache_gb)


def _small_pictures(recipe: Recipe, splits: Splits, model: nn.Module, side: int) -> tuple[str, ...]:
    """A note where the network reads the pictures at twice their own size or more, and would do with less."""
    largest = max(max(decode(image).size) for image in splits.train[:8]["image"])
    if recipe.data.low_resolution is not None or 2 * largest > side or not takes_sizes(model.config):
        return ()
    return (
        f"the pictures have {largest} pixels a side and are read at {side}: --data.low-resolution {side // 2} would train "
        "most of the steps at about a quarter of the work",
    )


def _check_objective(prepared: Prepared, model: nn.Module) -> None:
    """Refuse what the data or the model, as it trains, do not go with.

    Raises:
        InputError: naming the field.
    """
    recipe = prepared.recipe
    prepared.loss, prepared.penalised(model)
    check_mix(prepared, model)
    check_insides(prepared)
    if recipe.regularize.mixout and not pretrained_layers(model, prepared.fresh):
        raise InputError(
            f"regularize.mixout: expected 0 here, got {recipe.regularize.mixout}: no linear layer of the encoder trains"
        )
    if recipe.objective.r_drop:
        inputs, rows = prepared.inputs, prepared.splits.train.select(range(1))
        encoded = inputs.encode(rows) if isinstance(inputs, TextInputs) else rows
        if not drops_out(model, inputs.collate(encoded[:])):
            raise InputError(
                f"objective.r_drop: expected 0 here, got {recipe.objective.r_drop}: the model drops nothing out, so that two "
                "passes give the same; set model.dropout to 0.1"
            )


def check_insides(prepared: Prepared) -> None:
    """Refuse a teacher whose inside cannot be compared with the student's, or rows that would be compared with none.

    Raises:
        InputError: naming the kind and the remedy.
    """
    recipe, splits = prepared.recipe, prepared.splits
    if (taught_by := teacher_of(recipe, splits)) is not None:
        teacher_states.check(taught_by, prepared.kinds, prepared.inputs, prepared.model, splits.train)
    if prepared.compares_rows and recipe.batching.token_budget is None and prepared.micro_batch[0] < 2:
        raise InputError(
            "objective.kinds: expected no RelationalKD and Contrastive here: a forward pass has one row, and no other to compare "
            "it with; raise train.per_device_train_batch_size"
        )


def rows_compared(prepared: Prepared) -> tuple[str, ...]:
    """A note where what the rows of a step are compared with depends on how the step is cut."""
    _, accumulation, rows = prepared.micro_batch
    parts = accumulation * prepared.processes
    if not prepared.compares_rows or parts == 1:
        return ()
    return (
        f"objective.kinds: RelationalKD and Contrastive compare the rows of a forward pass, and a step of {rows} rows is cut into "
        f"{parts}: cut otherwise, it trains to other weights",
    )


def check_mix(prepared: Prepared, model: nn.Module) -> None:
    """Refuse mixing where a forward pass has one row alone, or the family cannot read mixed word embeddings.

    Raises:
        InputError: naming the remedy.
    """
    recipe, inputs = prepared.recipe, prepared.inputs
    if not recipe.objective.mix:
        return
    shown = ", ".join(map(spelled, recipe.objective.mix))
    if recipe.batching.token_budget is None and prepared.micro_batch[0] < 2:
        raise InputError(
            f"objective.mix: expected none here, got {shown}: a forward pass has one row, and no other to mix it with; raise "
            "train.per_device_train_batch_size"
        )
    if isinstance(inputs, TextInputs):
        some = inputs.encode(prepared.splits.train.select(range(min(64, len(prepared.splits.train)))))
        lengths = inputs.lengths(some)
        # Padding is what a family may count otherwise without ids.
        if reason := why_not_by_embeddings(model, inputs.collate(some[[lengths.argmin(), lengths.argmax()]])):
            raise InputError(
                f"objective.mix: expected none here, got {shown}: {prepared.model.config.model_type} cannot be given word "
                f"embeddings in place of texts ({reason}); leave it out"
            )


def _check_family(recipe: Recipe, checkpoint: LocalCheckpoint) -> None:
    """Refuse what the checkpoint's family cannot do, by its config alone: nothing has been loaded yet.

    Raises:
        InputError: naming the field and the family.
    """
    model, data = recipe.model, recipe.data
    chosen = model.trainable != "all" or model.trainable_pattern is not None
    headed = (model.pooling, model.last_layers, model.head) != ("default", 1, "default")
    if not (recipe.adapts or chosen or headed):
        return
    if (bones := skeleton(checkpoint, recipe.task, model.surgery)) is None:
        return
    bones = _with_head(Loaded(bones, (), ()), recipe).model
    train_only(bones, model.trainable, model.trainable_pattern)
    if not recipe.adapts:
        return
    with_adapter(bones, recipe, (), empty=True)
    prompt = 0 if recipe.adapter is None else virtual_tokens(recipe.adapter)
    limit = position_limit(bones.config)
    if prompt and limit is not None and isinstance(data, TextData) and data.max_length + prompt > limit:
        raise InputError(
            f"data.max_length: {data.max_length} and the prompt's {prompt} tokens, but {checkpoint.name} has positions for "
            f"{limit} tokens; give {limit - prompt} or less"
        )


def _with_head(loaded: Loaded, recipe: Recipe) -> Loaded:
    """The recipe's pooling and head on the classifier, see `pooled.with_head`."""
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


def with_adapter(
    model: nn.Module, recipe: Recipe, fresh: tuple[str, ...], *, steps: int | None = None, empty: bool = False
) -> PeftModel:
    """Put the recipe's adapter on the model, none of it on the layers that stay frozen; see `adapters.add_adapter`."""
    lora = recipe.lora
    config = recipe.adapter or adapters.lora_config(
        model, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, variant=lora.variant, fresh=fresh
    )
    adapted = adapters.add_adapter(model, config, fresh, seed=recipe.train.seed, steps=steps, empty=empty)
    adapted.active_peft_config.revision = recipe.model.revision
    freeze.freeze_lower(adapted.get_base_model(), recipe.model.frozen_layers)
    return adapted


def load_splits(recipe: Recipe) -> Splits:
    """The recipe's data, see `data.load.load`."""
    data = recipe.data
    if isinstance(data, TextData):
        own = {"kind": "text", "text": data.text, "text_pair": data.text_pair, "encoding": data.encoding}
    else:
        own = {"kind": "image", "image": data.image}
    splits = load(
        data.path,
        config_name=data.config_name,
        revision=data.revision,
        label=data.label,
        validation=data.validation,
        test=data.test,
        validation_fraction=data.validation_fraction,
        test_fraction=data.test_fraction,
        split_seed=data.split_seed,
        max_train_rows=data.max_train_rows,
        **own,
    )
    if "text_pair" in splits.train.column_names and any(isinstance(o, MixHalves) for o in leaves(data.augment)):
        raise InputError(
            "data.augment: MixHalves is for rows of one text; halves of two pairs would tear both apart; leave it out"
        )
    return splits
