"""Everything a run needs before its first step: data, tokenizer or processor, model, all of it checked."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import PartialState
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.augmentation.compose import leaves
from hf_finetune.augmentation.generative.paraphraser import check_checkpoints
from hf_finetune.augmentation.text.sentences import MixHalves
from hf_finetune.config.recipe import Distill, Recipe, TextData
from hf_finetune.config.rules import check
from hf_finetune.config.unused_options import without_effect
from hf_finetune.data.config import Source, SplitOptions
from hf_finetune.data.image_processing import probe_indices
from hf_finetune.data.inputs import ImageInputs, Inputs, TextInputs
from hf_finetune.data.loading import Splits, load
from hf_finetune.data.unlabeled import PretrainingRows, read_for_pretraining
from hf_finetune.distillation import compatibility
from hf_finetune.distillation import teachers as teacher
from hf_finetune.distillation.config import LogitKind
from hf_finetune.distillation.precomputed import Given
from hf_finetune.distillation.sklearn_pipelines import Pipeline
from hf_finetune.errors import InputError
from hf_finetune.hub.contents import ALONE_AFTER_A_RUN
from hf_finetune.models import freezing
from hf_finetune.models.heads.stock import can_switch, stock_head
from hf_finetune.models.kernels.dropout import drops_out
from hf_finetune.models.kernels.narrow_last_layer import first_token_alone
from hf_finetune.models.loading import Loaded, check_config
from hf_finetune.models.meta_model import skeleton
from hf_finetune.models.peft import adapters
from hf_finetune.models.peft.compatibility import check_added_layers, virtual_tokens
from hf_finetune.models.processors import load_image_processor, load_tokenizer, position_limit
from hf_finetune.models.safety import LocalCheckpoint, inspect_checkpoint
from hf_finetune.models.surgery.layers import AddLayers
from hf_finetune.models.surgery.patches import image_size_after
from hf_finetune.models.surgery.positions import length_after
from hf_finetune.models.trainable import train_only
from hf_finetune.pipeline.build_model import load_model, with_own_head
from hf_finetune.pipeline.context import Prepared
from hf_finetune.pipeline.run_folder import finished_run
from hf_finetune.pretraining.config import MAE, MaskedLanguage, SimCLR, SimCSE, SimMIM
from hf_finetune.pretraining.models import Guess, check_pretrainable
from hf_finetune.training import precision
from hf_finetune.training.classifier import quiet_libraries
from hf_finetune.training.losses.soft_labels import why_not_by_embeddings
from hf_finetune.training.regularization.mixout import pretrained_layers
from hf_finetune.utils import hashing
from hf_finetune.utils.codec import spelled

# Weights that this package's quickstart brings, by SHA-256: a local copy of them is named as what it is.
KNOWN_WEIGHTS = {
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db": "sentence-transformers/all-MiniLM-L6-v2"
}

WITHOUT_ADAPTER = (
    "adapter: only model/ is saved, with the adapter merged; by itself it would need the checkpoint as {} left it"
)

GUESSES: dict[type, Guess] = {
    MaskedLanguage: "words",
    SimCSE: "nothing",
    SimMIM: "patches",
    MAE: "unseen patches",
    SimCLR: "views",
}


def prepare(recipe: Recipe) -> Prepared:
    """Load and check everything that can be wrong, before anything is written.

    Raises:
        InputError: see `config.rules.check`, `data.loading.load` and `models.loading`.
    """
    check(recipe)
    quiet_libraries()
    device = precision.default_device()
    # What one process does for all, such as a teacher's answers, may take longer than the half hour that the others wait.
    state = PartialState(cpu=device.type == "cpu", timeout=timedelta(days=1))
    mixed_precision = precision.resolve_mixed_precision(recipe.precision.mixed_precision, device)
    data, model = recipe.data, recipe.model
    checkpoint = inspect_checkpoint(
        model.checkpoint,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        need_weights=model.from_config is None,
    )
    # By name, not by its place in the cache: what is refused is then named as the user did.
    which = {"revision": checkpoint.commit, "trust_remote_code": model.trust_remote_code}
    check_config(checkpoint.name, from_config=model.from_config, surgery=model.surgery, task=recipe.task, **which)
    _check_family(recipe, checkpoint)
    if recipe.pretrain.objective is not None:
        check_pretrainable(checkpoint, GUESSES[type(recipe.pretrain.objective)])
    check_checkpoints(data.augment)
    splits = load_splits(recipe)
    inputs: Inputs
    if isinstance(data, TextData):
        inputs = TextInputs(
            load_tokenizer(
                checkpoint.name,
                max_length=data.max_length,
                sample=splits.train["text"][:200],
                from_config=model.from_config,
                positions=length_after(model.surgery),
                **which,
            ),
            data.max_length,
        )
    else:
        inputs = image_inputs(recipe, checkpoint)
    unlabelled = unlabelled_rows(recipe, splits)
    teachers = teachers_of(recipe, splits)
    for one in () if teachers is None else teachers.members:
        _check_teacher(one, recipe, splits, inputs)
    found = load_model(recipe, checkpoint, splits, inputs)
    loaded = found.loaded
    # An adapter on a copy: the head is fitted before it goes on, but one that does not fit is refused now.
    as_trained = with_adapter(copy.deepcopy(loaded.model), recipe, loaded.fresh) if recipe.adapts else loaded.model
    weights = checkpoint.commit or hashing.of_files(*(checkpoint.weights or (checkpoint.folder / "config.json",)))
    before = finished_run(checkpoint.folder) or {}
    changed = _changed_by(recipe, checkpoint, loaded.model)
    if before and isinstance(as_trained, PeftModel) and not recipe.model.base_model:
        # Under an adapter lies what that run left, and not the checkpoint that it began from.
        if adapters.mergeable(as_trained):
            changed = changed or "the run before it"
        elif recipe.hub.repo_id is not None:
            raise InputError(f"hub.repo_id: {ALONE_AFTER_A_RUN.format(before['name'])}")
    prepared = Prepared(
        recipe=recipe,
        splits=splits,
        inputs=inputs,
        model=loaded.model,
        fresh=loaded.fresh,
        device=device,
        mixed_precision=mixed_precision,
        base_model=_base_model(recipe, checkpoint, weights, before),
        weights=weights,
        notes=(
            *splits.notes,
            *loaded.notes,
            *found.notes,
            *(() if teachers is None else teachers.notes),
            *without_effect(recipe),
            *((WITHOUT_ADAPTER.format(changed),) if recipe.adapts and changed else ()),
        ),
        processes=state.num_processes,
        shrink=found.shrink,
        base_changed=changed,
        picture_tokens=found.picture_tokens,
        teachers=teachers,
        teacher=None if teachers is None else teachers.weights,
        unlabelled=unlabelled,
        started_from={name: before[name] for name in ("name", "labels", "method")} if before else None,
    )
    # What these refuse is refused now, rather than when training starts.
    if recipe.batching.token_budget is None:
        prepared.batches(None)
    _check_objective(prepared, as_trained)
    prepared = replace(prepared, notes=(*prepared.notes, *rows_compared(prepared)))
    if not prepared.goes_unpadded() and model.narrow_last_layer and not prepared.compares_insides:
        first_token_alone(loaded.model)
    return prepared


def after_pretraining(prepared: Prepared, folder: Path) -> Prepared:
    """The run with the encoder that its pretraining left in `folder` in the place of its checkpoint."""
    recipe = prepared.recipe
    found = load_model(recipe, inspect_checkpoint(folder), prepared.splits, prepared.inputs)
    model = found.loaded.model
    # What it is called by everyone else.
    model.name_or_path = model.config.name_or_path = prepared.model.name_or_path
    after = replace(prepared, model=model, fresh=found.loaded.fresh, shrink=found.shrink)
    if not after.goes_unpadded() and recipe.model.narrow_last_layer and not after.compares_insides:
        first_token_alone(model)
    return after


def _base_model(recipe: Recipe, checkpoint: LocalCheckpoint, weights: str, before: dict[str, Any]) -> str | None:
    """Hub id of what the weights come from; None where it is not known, or they come from nothing.

    Args:
        weights: see `Prepared.weights`.
        before: result.json of the run that the checkpoint comes from; {}: from none.
    """
    if recipe.model.from_config is not None:
        return None
    known = checkpoint.name if checkpoint.commit else KNOWN_WEIGHTS.get(weights) or before.get("base_model")
    return recipe.model.base_model or known


def _check_teacher(one: teacher.AnyTeacher, recipe: Recipe, splits: Splits, inputs: Inputs) -> None:
    """Refuse a teacher that cannot answer the rows as the run will ask about them.

    Raises:
        InputError: see `distillation.precomputed.Given.of`, `distillation.sklearn_pipelines.Pipeline.logits` and `distillation.teachers.check_views`; or files
            that were to answer changed rows.
    """
    data = recipe.data
    if isinstance(one, Given):
        if data.augment:
            shown = ", ".join(map(spelled, data.augment))
            raise InputError(
                f"data.augment: expected none beside {one.name}, which answers the rows as they are, got {shown}; take a "
                "classifier that can be asked"
            )
        for name, rows in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
            if rows is not None:
                one.of(rows, name)
    elif isinstance(one, Pipeline):
        if "text_pair" in splits.train.column_names:
            raise InputError(
                f"objective.teacher: expected a classifier of pairs of texts, got {one.name}, which reads one"
            )
        one.logits(splits.train["text"][:1])
    elif isinstance(theirs := one.classifier.inputs, ImageInputs):
        images = splits.train.select(probe_indices(len(splits.train)))["image"][:]
        try:
            theirs.collate({"image": images})
        except InputError as error:
            raise InputError(f"objective.teacher: {one.name}: {error}") from None
        if isinstance(inputs, ImageInputs) and data.augment and data.augment_copies == 0:
            teacher.check_views(one.name, theirs, inputs, images)


def teachers_of(recipe: Recipe, splits: Splits) -> teacher.Teachers | None:
    """The recipe's teachers, not loaded yet; None: it has none."""
    match recipe.objective:
        case Distill(teachers=names, teacher_precision=precision, kinds=kinds):
            return teacher.Teachers(
                names,
                splits.labels,
                "text" if isinstance(recipe.data, TextData) else "image",
                trust_remote_code=recipe.model.trust_remote_code,
                precision=precision,
                whole=any(isinstance(one, LogitKind) and one.needs_all_logits for one in kinds),
            )
        case _:
            return None


def unlabelled_rows(recipe: Recipe, splits: Splits) -> PretrainingRows | None:
    """What the recipe's pretraining reads; None: there is none.

    Raises:
        InputError: see `data.unlabeled.read_for_pretraining`.
    """
    if recipe.pretrain.objective is None:
        return None
    data = recipe.data
    return read_for_pretraining(
        [splits.train, *([] if splits.left_out is None else [splits.left_out])],
        recipe.pretrain.rows,
        evaluated=[splits.validation, *([] if splits.test is None else [splits.test])],
        kind="text" if isinstance(data, TextData) else "image",
        columns=splits.columns,
        encoding=data.encoding if isinstance(data, TextData) else "utf-8",
    )


def image_inputs(recipe: Recipe, checkpoint: LocalCheckpoint) -> ImageInputs:
    """What makes the network's input of the recipe's pictures."""
    model = recipe.model
    processor = load_image_processor(
        checkpoint.name,
        image_size=image_size_after(model.surgery) or (model.from_config or {}).get("image_size"),
        need_weights=model.from_config is None,
        revision=checkpoint.commit,
        trust_remote_code=model.trust_remote_code,
    )
    return ImageInputs(processor, decode_once=recipe.data.decode_once, cache_gb=recipe.batching.cache_gb)


def _changed_by(recipe: Recipe, checkpoint: LocalCheckpoint, model: PreTrainedModel) -> str | None:
    """See `Prepared.base_changed`."""
    if recipe.model.surgery:
        return "surgery"
    if recipe.pretrain.objective is not None:
        return "pretraining"
    # A field of the config, by which the stock class pools otherwise than the checkpoint's own.
    if recipe.model.from_config is None and can_switch(model.config, recipe.model.pooling):
        own = type(model.config).from_pretrained(checkpoint.folder)
        return None if stock_head(own) == stock_head(model.config) else "model.pooling"
    return None


def _check_objective(prepared: Prepared, model: nn.Module) -> None:
    """Refuse what the data or the model, as it trains, do not go with.

    Raises:
        InputError: naming the field.
    """
    recipe = prepared.recipe
    if recipe.train.checkpoints_activations and not prepared.model.supports_gradient_checkpointing:
        raise InputError(
            f"train.extra.gradient_checkpointing: expected false here: {prepared.model.config.model_type} cannot compute its "
            "activations again"
        )
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
    if prepared.compares_insides:
        assert prepared.teachers is not None, "a teacher's features are compared"
        (one,) = prepared.teachers.members
        if not isinstance(one, teacher.Teacher):
            raise InputError(
                f"objective.kinds: expected kinds of the teacher's answers (SoftTargets) beside {one.name}, which is no network "
                "to look into"
            )
        compatibility.check(one, prepared.kinds, prepared.inputs, prepared.model, splits.train)
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
    if not (recipe.adapts or chosen or recipe.model.has_own_head):
        return
    if (bones := skeleton(checkpoint, recipe.task, model.surgery, model.from_config)) is None:
        return
    bones = with_own_head(Loaded(bones, (), ()), recipe).model
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


def with_adapter(
    model: nn.Module, recipe: Recipe, fresh: tuple[str, ...], *, steps: int | None = None, empty: bool = False
) -> PeftModel:
    """Put the recipe's adapter on the model, none of it on the layers that stay frozen; see `adapters.add_adapter`."""
    lora = recipe.lora
    config = recipe.adapter or adapters.lora_config(
        model, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, variant=lora.variant, fresh=fresh
    )
    if any(isinstance(step, AddLayers) for step in recipe.model.surgery):
        check_added_layers(model, config)
    adapted = adapters.add_adapter(model, config, fresh, seed=recipe.train.seed, steps=steps, empty=empty)
    adapted.active_peft_config.revision = recipe.model.revision
    freezing.freeze_lower(adapted.get_base_model(), recipe.model.frozen_layers)
    return adapted


def load_splits(recipe: Recipe) -> Splits:
    """The recipe's data, see `data.loading.load`.

    Raises:
        InputError: see there.
    """
    data = recipe.data
    where = Source(data.path, config_name=data.config_name, revision=data.revision, label=data.label)
    if isinstance(data, TextData):
        where = replace(where, text=data.text, text_pair=data.text_pair, encoding=data.encoding)
    else:
        where = replace(where, image=data.image)
    options = SplitOptions(
        validation=data.validation,
        test=data.test,
        validation_fraction=data.validation_fraction,
        test_fraction=data.test_fraction,
        seed=data.split_seed,
        max_train_rows=data.max_train_rows,
        rows_per_class=data.rows_per_class,
        unlabeled=data.unlabelled,
        keep_left_out=recipe.pretrain.objective is not None and recipe.pretrain.left_out,
    )
    splits = load(where, "text" if isinstance(data, TextData) else "image", options)
    if "text_pair" in splits.train.column_names and any(isinstance(o, MixHalves) for o in leaves(data.augment)):
        raise InputError(
            "data.augment: MixHalves is for rows of one text; halves of two pairs would tear both apart; leave it out"
        )
    return splits
