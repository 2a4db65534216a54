"""Load the tokenizer or image processor of a checkpoint, and check that it fits the model."""

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import chain
from typing import Any

import torch
import transformers
from torch import nn
from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint import LocalCheckpoint
from hf_finetune.models.checkpoint_config import load_config
from hf_finetune.models.contexts import input_errors, quiet
from hf_finetune.models.own_tokenizers import reading_sequences
from hf_finetune.models.tokenizer_files import PROBE, check_tokenizer_files
from hf_finetune.utils.messages import install_command, one_line, short
from hf_finetune.utils.panics import tokenize
from hf_finetune.utils.sequences import SequenceKind

log = logging.getLogger("hf_finetune")

# Shares of unknown tokens. A good vocabulary may lack emoji and foreign scripts, so only texts with hardly any known
# token are refused.
UNKNOWN_WARNS, UNKNOWN_REFUSED = 0.2, 0.9
# Keys of an image processor's size that one number can replace.
SIDES = ("height", "width", "shortest_edge")
# Characters of each text whose tokens are looked at.
SAMPLED_CHARACTERS = 10_000
# Side of the image on which a processor is tried, in pixels.
TRIED_SIDE = 64


def load_tokenizer(
    local: LocalCheckpoint,
    *,
    max_length: int,
    sample: Sequence[str],
    from_config: Mapping[str, Any] | None = None,
    positions: int | None = None,
    sequence: SequenceKind | None = None,
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint, and check that it fits the model and the texts.

    If the tokenizer's files are missing, transformers silently builds a tokenizer with five special tokens, for which
    every word is unknown; it is refused. Chat templates are removed: a classifier does not use them, and saving one
    writes to a path that the checkpoint chooses (CVE-2026-9856).

    Args:
        max_length: tokens of the longest text, special tokens included; saved as the tokenizer's `model_max_length`.
        sample: up to a few hundred texts of the data, to check that the vocabulary covers them.
        from_config: changed fields of the config, see `from_config.resized`.
        positions: number of tokens that the model will have positions for. None: that of the config.
        sequence: what the texts are, see `own_tokenizers.reading_sequences`.

    Raises:
        InputError: the tokenizer's files are missing or broken, or need sentencepiece; its vocabulary differs from the
            model's; 90% of the sample's tokens are unknown; or the model has fewer positions than `max_length`.
    """
    config = load_config(local, from_config)
    _check_length(local, config, max_length, positions)
    tokenizer = _read_tokenizer(local)
    if sequence is not None:
        tokenizer = reading_sequences(tokenizer, sequence)
    tokenizer.model_max_length = max_length
    with input_errors(f"{local.name}: its tokenizer cannot be used"):
        _check_vocabulary(local.name, tokenizer, config, sample)
    tokenizer.chat_template = None
    return tokenizer


def _read_tokenizer(local: LocalCheckpoint) -> PreTrainedTokenizerBase:
    name, folder = local.name, local.folder
    serialized = (folder / "tokenizer.json").is_file()
    if not serialized and not any(chain(folder.glob("vocab.*"), folder.glob("*.model"))):
        raise InputError(f"{name}: no tokenizer in it; expected tokenizer.json next to config.json")
    check_tokenizer_files(name, folder, local.limits)
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=local.trust_remote_code)
    # tokenizers raises a plain Exception for a file that it cannot parse.
    except Exception as error:
        remedy = one_line(error, most=300)
        if not serialized and any(chain(folder.glob("*.model"), folder.glob("*.spm"))):
            # transformers' message asks for tiktoken, which is of no use here.
            remedy = "it needs sentencepiece and protobuf; pip install sentencepiece protobuf"
        raise InputError(f"{name}: its tokenizer cannot be loaded: {remedy}") from error
    if tokenizer.pad_token is None:
        raise InputError(f"{name}: its tokenizer has no padding token; name one in tokenizer_config.json")
    return tokenizer


def _check_length(local: LocalCheckpoint, config: PreTrainedConfig, max_length: int, positions: int | None) -> None:
    if local.config.get("auto_map"):
        # Remote code may not build on the meta device; the model itself fails on texts that are too long.
        return
    limit = position_limit(config) if positions is None else positions
    if limit is not None and max_length > limit:
        expected = f"{local.name} has positions for {limit} tokens; give {limit} or less"
        raise InputError(f"data.max_length: {max_length}, but {expected}")
    usual = local.config.get("max_position_embeddings")
    if limit is None and usual is not None and max_length > usual:
        log.warning("data.max_length: %d tokens, more than the %d that %s is made for", max_length, usual, local.name)


def position_limit(config: PreTrainedConfig) -> int | None:
    """Return the number of tokens with learned positions, None if positions are relative or rotary.

    Read from the position table of a model on the meta device: RoBERTa, MPNet and others start to count after the
    padding index, so that 514 positions are 512 tokens.
    """
    with input_errors(f"{config.model_type}: config.json cannot be used"), torch.device("meta"), quiet():
        return positions_of(transformers.AutoModel.from_config(config))


def positions_of(model: nn.Module) -> int | None:
    """Return the number of tokens with learned positions of a model, see `position_limit`."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None


def _check_vocabulary(
    name: str, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, sample: Sequence[str]
) -> None:
    size = config.to_dict().get("vocab_size", len(tokenizer))
    where = f"{name}: its tokenizer"
    if len(tokenizer) < size / 2:
        raise InputError(f"{where} has {len(tokenizer)} tokens, the model {size}; restore the tokenizer's files")
    made = tokenize(tokenizer, [PROBE], name=name, verbose=False)
    if unmade := [name for name in tokenizer.model_input_names if name not in made]:
        raise InputError(
            f"{where} does not return {unmade[0]!r} of its model_input_names; restore tokenizer_config.json"
        )
    for special in ("pad_token", "cls_token", "sep_token", "unk_token"):
        number = getattr(tokenizer, f"{special}_id")
        if number is not None and not 0 <= number < size:
            raise InputError(f"{where} has {special} {number}, the model {size} tokens; restore tokenizer_config.json")
    padding = config.to_dict().get("pad_token_id")
    if padding is not None and padding != tokenizer.pad_token_id:
        log.warning(
            "%s pads with %d (%s), its config.json says %s: the embedding of that token does not train; "
            "set pad_token_id there",
            *(where, tokenizer.pad_token_id, tokenizer.pad_token, padding),
        )
    texts = [text[:SAMPLED_CHARACTERS] for text in sample if text.strip()]
    if not texts:
        return
    encoded = tokenize(tokenizer, texts, name=name, add_special_tokens=False, verbose=False)
    ids = list(chain.from_iterable(encoded["input_ids"]))
    if max(ids, default=0) >= size:
        raise InputError(
            f"{where} returns token id {max(ids)}, the model has {size} tokens; the two do not belong together"
        )
    unknown = sum(i == tokenizer.unk_token_id for i in ids) / len(ids) if ids else 1.0
    if unknown >= UNKNOWN_REFUSED:
        remedy = "restore its files, or use a checkpoint for this language"
        raise InputError(f"{where} does not know {unknown:.0%} of the texts' tokens; {remedy}")
    if unknown >= UNKNOWN_WARNS:
        log.warning("%s does not know %.0f%% of the texts' tokens", where, 100 * unknown)


def load_image_processor(local: LocalCheckpoint, *, image_size: int | None = None) -> BaseImageProcessor:
    """Load the image processor of a checkpoint.

    Without a preprocessor_config.json, images are resized to the config's image size and normalized with ImageNet's
    mean and standard deviation, with a warning.

    Args:
        image_size: side of the processed images in pixels. None: that of the checkpoint.

    Raises:
        InputError: torchvision or pillow is missing, or the processor's file is broken.
    """
    if find_spec("torchvision") is None or find_spec("PIL") is None:
        raise InputError(f"images need torchvision and pillow; {install_command('vision')}")
    if any((local.folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        with input_errors(f"{local.name}: its image processor cannot be loaded"), quiet():
            trust = local.trust_remote_code
            processor = transformers.AutoImageProcessor.from_pretrained(local.folder, trust_remote_code=trust)
            _check_sides(processor, local.limits.max_image_side)
            _check_output(processor)
            return processor if image_size is None else _resized_processor(processor, image_size)
    size = image_size or local.config.get("image_size", 224)
    height, width = size if isinstance(size, list) else (size, size)
    if max(height, width) > (most := local.limits.max_image_side) and image_size is None:
        expected = f"expected {most:,} pixels or less, got {size}; raise --model.max-image-side"
        raise InputError(f"{local.name}: config.json: image_size: {expected}")
    default = f"images are resized to {height}x{width} and normalized as ImageNet's"
    log.warning("%s: no preprocessor_config.json; %s", local.name, default)
    return transformers.ViTImageProcessor(
        size={"height": height, "width": width}, image_mean=IMAGENET_DEFAULT_MEAN, image_std=IMAGENET_DEFAULT_STD
    )


def _check_sides(processor: BaseImageProcessor, most: int) -> None:
    """Raise a ValueError for a side that is no number, or larger than `CheckpointLimits.max_image_side`."""
    settings = processor.to_dict()
    for name in ("size", "crop_size", "pad_size"):
        sides = settings.get(name)
        for side, value in sides.items() if isinstance(sides, dict) else ():
            if value is not None and not (isinstance(value, int | float) and 1 <= value <= most):
                is_large = isinstance(value, int | float) and value > most
                remedy = "; raise --model.max-image-side" if is_large else ""
                raise ValueError(f"{name}.{side}: expected 1 to {most:,} pixels, got {short(value)}{remedy}")


def _check_output(processor: BaseImageProcessor) -> None:
    """Process a gray image: transformers looks at most settings only then.

    Raises:
        ValueError: its pixels are not finite.
    """
    from PIL import Image

    pixels = processor([Image.new("RGB", (TRIED_SIDE, TRIED_SIDE), (127, 127, 127))], return_tensors="pt")
    if not torch.isfinite(pixels["pixel_values"]).all():
        raise ValueError("it makes pixels that are not finite; look at rescale_factor, image_mean and image_std")


def _resized_processor(processor: BaseImageProcessor, image_size: int) -> BaseImageProcessor:
    """Return a processor for square images of this size; a center crop keeps its share of the image."""
    settings = processor.to_dict()
    sides = {n: v for n, v in settings["size"].items() if n in SIDES}
    if not sides:
        raise ValueError(f"{type(processor).__name__} has no size of the kinds {', '.join(SIDES)}")
    settings["size"] = dict.fromkeys(sides, image_size)
    if settings.get("do_center_crop"):
        crop = settings["crop_size"]
        scale = image_size / min(v for n, v in crop.items() if n in SIDES)
        settings["crop_size"] = dict.fromkeys(crop, image_size)
        settings["size"] = {n: round(v * scale) for n, v in sides.items()}
    return type(processor).from_dict(settings)
