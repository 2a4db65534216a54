"""Load the rows of a run, and its tokenizer or image processor."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hf_finetune.augmentation.compose import leaves
from hf_finetune.augmentation.text.pairs import SwapPair
from hf_finetune.augmentation.text.sentences import MixHalves
from hf_finetune.config.data import ImageData, TextData
from hf_finetune.data.inputs import ImageInputs, Inputs, TextInputs
from hf_finetune.data.labels import has_words
from hf_finetune.data.loading import Splits, load
from hf_finetune.data.long.config import TRUNCATE, Auto
from hf_finetune.data.unlabeled import PretrainingRows, read_for_pretraining
from hf_finetune.data.word_inputs import WordInputs
from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint import LocalCheckpoint
from hf_finetune.models.config import Model
from hf_finetune.models.own_checkpoint import with_tokenizer
from hf_finetune.models.processors import load_image_processor, load_tokenizer
from hf_finetune.models.surgery.patches import image_size_after
from hf_finetune.models.surgery.positions import length_after
from hf_finetune.pipeline.context import RunContext, RunData


def load_data(context: RunContext, *, features: Sequence[str] = ()) -> tuple[RunContext, RunData]:
    """Load the splits, the tokenizer or image processor, and the pretraining rows.

    Args:
        features: columns to load beside what the network reads, see `data.features`.

    Returns:
        The context, whose checkpoint has the tokenizer that `model.tokenizer` builds from the rows, and the data.

    Raises:
        InputError: see `load_splits`, `models.processors` and `data.unlabeled.read_for_pretraining`.
    """
    recipe = context.recipe
    data: Any = replace(recipe.data, features=tuple(features)) if features else recipe.data
    keep_left_out = recipe.pretrain.objective is not None and recipe.pretrain.left_out
    splits = load_splits(data, keep_left_out=keep_left_out, group=recipe.evaluate.group)
    pretraining = _pretraining_rows(context, splits)
    context = _with_own_tokenizer(context, splits, pretraining)
    return context, RunData(splits, _inputs(context, splits), pretraining, recipe.evaluate)


def _with_own_tokenizer(context: RunContext, splits: Splits, pretraining: PretrainingRows | None) -> RunContext:
    recipe = context.recipe
    own, data = recipe.model.tokenizer, recipe.data
    if own is None or data.kind == "image" or data.sequence is None:
        return context
    rows = splits.train if pretraining is None else pretraining.rows
    texts = [text for name in ("text", "text_pair") if name in rows.column_names for text in rows[name][:]]
    from_config = recipe.model.from_config or {}
    options: dict[str, Any] = {"from_config": from_config, "max_length": data.max_length}
    return replace(context, checkpoint=with_tokenizer(context.checkpoint, own, data.sequence, texts, **options))


def load_splits(data: TextData | ImageData, *, keep_left_out: bool = False, group: str | None = None) -> Splits:
    """Load the splits of a recipe's data, see `data.loading.load`.

    Raises:
        InputError: see `data.loading.load`; or MixHalves on pairs of texts, SwapPair on others.
    """
    splits = load(data.source, data.kind, data, keep_left_out=keep_left_out, group=group)
    are_pairs, operations = "text_pair" in splits.train.column_names, leaves(data.augment)
    if not are_pairs and any(isinstance(o, SwapPair) for o in operations):
        raise InputError(
            "data.augment: SwapPair expects pairs of texts, and these rows are single texts; name the second column by "
            "--text-pair, or leave it out"
        )
    if are_pairs and any(isinstance(o, MixHalves) for o in operations):
        raise InputError(
            "data.augment: MixHalves expects single texts, and these rows are pairs of texts; leave it out"
        )
    return splits


def _inputs(context: RunContext, splits: Splits) -> Inputs:
    recipe, checkpoint = context.recipe, context.checkpoint
    data, model = recipe.data, recipe.model
    if data.kind == "image":
        return image_inputs(model, checkpoint, decode_once=data.decode_once, cache_gb=recipe.batching.cache_gb)
    tokenizer = load_tokenizer(
        checkpoint,
        max_length=data.max_length,
        sample=splits.train["text"][:200],
        from_config=model.from_config,
        positions=length_after(model.surgery),
        sequence=recipe.sequence,
    )
    # It is chosen later, see `choose_long`.
    long = TRUNCATE if isinstance(data.long, Auto) else data.long
    kind = WordInputs if has_words(splits.train.column_names) else TextInputs
    inputs = kind(tokenizer, data.max_length, long)
    if long != TRUNCATE and (why := inputs.one_way(splits.train)) is not None:
        raise InputError(f"data.long: expected truncate, got {long.name}: {why}; leave it out")
    long.check(tokenizer, data.max_length, checkpoint.name)
    return inputs


def image_inputs(model: Model, checkpoint: LocalCheckpoint, *, decode_once: bool, cache_gb: float) -> ImageInputs:
    """Load the image processor of a checkpoint, for the image size after surgery.

    Args:
        decode_once, cache_gb: see `ImageInputs`.
    """
    image_size = image_size_after(model.surgery) or (model.from_config or {}).get("image_size")
    processor = load_image_processor(checkpoint, image_size=image_size)
    return ImageInputs(processor, decode_once=decode_once, cache_gb=cache_gb)


def _pretraining_rows(context: RunContext, splits: Splits) -> PretrainingRows | None:
    data, pretrain = context.recipe.data, context.recipe.pretrain
    if pretrain.objective is None:
        return None
    return read_for_pretraining(
        [rows for rows in (splits.train, splits.left_out) if rows is not None],
        [data.source.elsewhere(path) for path in pretrain.rows],
        evaluated=[rows for rows in (splits.validation, splits.test) if rows is not None],
        kind=data.kind,
        columns=splits.columns,
    )
