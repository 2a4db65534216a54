"""From a checkpoint to what a run needs of it: a tokenizer or an image processor, and a classifier in float32."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ViTImageProcessor,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.utils import logging as transformers_logging

from hf_finetune.errors import InputError
from hf_finetune.models.heads import classification_layer, encoder
from hf_finetune.models.safety import LocalCheckpoint, first_line, inspect_checkpoint
from hf_finetune.models.surgery import SurgeryStep, operate, planned, spelled

log = logging.getLogger("hf_finetune")

Task = Literal["text-classification", "image-classification"]

# Emoji and foreign scripts are often unknown to a vocabulary that serves the rest of the text well, so a share of
# unknown tokens is refused only where hardly anything else is left.
UNKNOWN_WARNS, UNKNOWN_REFUSED = 0.2, 0.9


@dataclass(frozen=True)
class Loaded:
    """A classifier and what loading it has shown."""

    model: PreTrainedModel
    fresh: tuple[str, ...]
    """Modules with weights that the checkpoint does not have, or has in another shape: they start at random."""
    notes: tuple[str, ...]
    """What the user should hear, each also logged at INFO."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and load reports; what they say is returned as notes."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    if bars:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of the CPU from `seed` inside; the generator goes on as if nothing had happened after."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _config(local: LocalCheckpoint, trust_remote_code: bool) -> PreTrainedConfig:
    try:
        with _quiet():
            return AutoConfig.from_pretrained(local.folder, trust_remote_code=trust_remote_code)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, OSError, ImportError) as error:
        raise InputError(f"{local.name}: config.json cannot be used: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def load_tokenizer(
    checkpoint: str | Path,
    *,
    max_length: int,
    revision: str | None = None,
    trust_remote_code: bool = False,
    positions: int | None = None,
    sample: Sequence[str],
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint and make sure that it fits the model and the texts.

    transformers builds a tokenizer of five special tokens, without a word, where the tokenizer's files are missing:
    every word is then unknown. Such a tokenizer is refused. Chat templates are dropped: a classifier has no use for
    them, and saving one writes to a path that the checkpoint chose (CVE-2026-9856).

    Args:
        max_length: longest text in tokens, special tokens included; stored with the tokenizer as `model_max_length`.
        positions: tokens that the model will have positions for. None: as many as the checkpoint has.
        sample: texts of the data, a few hundred at most, to see whether the vocabulary knows them.

    Raises:
        InputError: as `inspect_checkpoint`; the tokenizer's files are missing or broken, or need sentencepiece; its
            vocabulary is not the model's; 90% of the sample's tokens are unknown to it; `max_length` is more than the
            model has positions for.
    """
    local = inspect_checkpoint(checkpoint, revision=revision, trust_remote_code=trust_remote_code)
    config = _config(local, trust_remote_code)
    _check_length(local, config, max_length, positions)
    serialized = (local.folder / "tokenizer.json").is_file()
    if not serialized and not any(chain(local.folder.glob("vocab.*"), local.folder.glob("*.model"))):
        raise InputError(f"{checkpoint}: no tokenizer in it; expected tokenizer.json, beside {local.weights[0].name}")
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(local.folder, trust_remote_code=trust_remote_code)
    # tokenizers raises plain Exception for a file that it cannot parse.
    except Exception as error:
        if not serialized and any(local.folder.glob("*.model")):
            # transformers asks for tiktoken here, whichever of the two packages is missing.
            remedy = "it needs sentencepiece and protobuf; pip install sentencepiece protobuf"
        else:
            remedy = _one_line(error)
        raise InputError(f"{checkpoint}: its tokenizer cannot be loaded: {remedy}") from error
    if tokenizer.pad_token is None:
        raise InputError(f"{checkpoint}: its tokenizer has no padding token; name one in tokenizer_config.json")
    _check_vocabulary(checkpoint, tokenizer, config, sample)
    tokenizer.model_max_length = max_length
    tokenizer.chat_template = None
    return tokenizer


def _check_length(local: LocalCheckpoint, config: PreTrainedConfig, max_length: int, positions: int | None) -> None:
    if local.config.get("auto_map"):
        # A model in foreign code need not be buildable without memory; it says itself what is too long.
        return
    limit = position_limit(config) if positions is None else positions
    if limit is not None and max_length > limit:
        raise InputError(
            f"data.max_length: {max_length}, but {local.name} has positions for {limit} tokens; give {limit} or less"
        )
    made_for = local.config.get("max_position_embeddings")
    if limit is None and made_for is not None and max_length > made_for:
        log.warning(
            "data.max_length: %d tokens, more than the %d that %s is made for", max_length, made_for, local.name
        )


def position_limit(config: PreTrainedConfig) -> int | None:
    """Longest input in tokens that the model has learned positions for; None where positions are relative or rotary.

    RoBERTa, MPNet and their kin count positions from behind the padding index, so 514 positions are 512 tokens. The
    table itself tells, in a model without memory behind it.
    """
    with torch.device("meta"), _quiet():
        body = AutoModel.from_config(config)
    for name, module in body.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None


def _check_vocabulary(
    checkpoint: str, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, sample: Sequence[str]
) -> None:
    size = config.to_dict().get("vocab_size", len(tokenizer))
    if len(tokenizer) < size / 2:
        raise InputError(
            f"{checkpoint}: its tokenizer has {len(tokenizer)} tokens, the model {size}; restore the tokenizer's files"
        )
    texts = [text for text in sample if text.strip()]
    if not texts:
        return
    ids = list(chain.from_iterable(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]))
    if max(ids, default=0) >= size:
        raise InputError(
            f"{checkpoint}: its tokenizer gives token {max(ids)}, the model has {size}; the two do not belong together"
        )
    unknown = sum(i == tokenizer.unk_token_id for i in ids) / len(ids) if ids else 1.0
    if unknown >= UNKNOWN_REFUSED:
        raise InputError(
            f"{checkpoint}: its tokenizer does not know {unknown:.0%} of the texts' tokens; "
            "restore its files, or use a checkpoint for this language"
        )
    if unknown >= UNKNOWN_WARNS:
        log.warning("%s: its tokenizer does not know %.0f%% of the texts' tokens", checkpoint, 100 * unknown)


def load_image_processor(
    checkpoint: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    image_size: int | None = None,
) -> BaseImageProcessor:
    """Load the image processor of a checkpoint.

    Without a preprocessor_config.json the pictures are resized to the config's image size and normalised with
    ImageNet's mean and deviation, with a warning.

    Args:
        image_size: side in pixels of the pictures that it is to make. None: as its file says.

    Raises:
        InputError: as `inspect_checkpoint`; torchvision or pillow is not installed; the processor's file is broken.
    """
    if find_spec("torchvision") is None or find_spec("PIL") is None:
        raise InputError("pictures need torchvision and pillow; pip install 'hf_finetune[vision]'")
    local = inspect_checkpoint(checkpoint, revision=revision, trust_remote_code=trust_remote_code)
    if any((local.folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        try:
            with _quiet():
                processor = AutoImageProcessor.from_pretrained(local.folder, trust_remote_code=trust_remote_code)
            return processor if image_size is None else _resized_processor(processor, image_size)
        except (ValueError, TypeError, KeyError, OSError, ImportError, AttributeError) as error:
            raise InputError(f"{checkpoint}: its image processor cannot be loaded: {_one_line(error)}") from error
    size = image_size or local.config.get("image_size", 224)
    height, width = size if isinstance(size, list) else (size, size)
    log.warning(
        "%s: no preprocessor_config.json; pictures are resized to %dx%d and normalised as ImageNet's",
        checkpoint,
        height,
        width,
    )
    return ViTImageProcessor(
        size={"height": height, "width": width}, image_mean=IMAGENET_DEFAULT_MEAN, image_std=IMAGENET_DEFAULT_STD
    )


def _resized_processor(processor: BaseImageProcessor, image_size: int) -> BaseImageProcessor:
    """A processor that makes square pictures of this size where `processor` made them of its own size.

    One that cuts the middle out of a larger picture goes on to leave out the same share of it.
    """
    settings = processor.to_dict()
    sides = ("height", "width", "shortest_edge")
    whole = {n: v for n, v in settings["size"].items() if n in sides}
    if not whole:
        raise ValueError(f"{type(processor).__name__} has no size of the kinds {', '.join(sides)}")
    if settings.get("do_center_crop"):
        crop = settings["crop_size"]
        scale = image_size / min(v for n, v in crop.items() if n in sides)
        settings["crop_size"] = {n: image_size for n in crop}
        settings["size"] = {n: round(v * scale) for n, v in whole.items()}
    else:
        settings["size"] = dict.fromkeys(whole, image_size)
    return type(processor).from_dict(settings)


def load_classifier(
    checkpoint: str | Path,
    *,
    task: Task,
    labels: Sequence[str],
    revision: str | None = None,
    trust_remote_code: bool = False,
    dropout: float | None = None,
    attn_implementation: Literal["eager", "sdpa"] | None = None,
    seed: int = 0,
    surgery: Sequence[SurgeryStep] = (),
) -> Loaded:
    """Load a checkpoint as a single-label classifier with float32 weights, whatever format they are stored in.

    What the checkpoint lacks (the head, and BERT's pooler in some) starts at random from `seed`: two processes get the
    same weights, and torch's global generator is left as it was. A head for the same class names in the same order is
    kept; one for others is replaced, whatever its size.

    Args:
        labels: class names, the index is the label id.
        dropout: rate of every dropout of the network, stochastic depth included; also written to its config. None: as
            the checkpoint's config says.
        attn_implementation: None: eager where there is no accelerator, the library's choice where there is.
        surgery: operations on the loaded model, see `models.surgery`; what they draw comes from `seed`, too.

    Raises:
        InputError: as `inspect_checkpoint`; the family has no such classifier, no sdpa attention or a dropout that its
            config does not govern; the weights do not fit the config, or are not for this kind of model at all; the
            family cannot say what the surgery makes of it.
    """
    local = inspect_checkpoint(checkpoint, revision=revision, trust_remote_code=trust_remote_code)
    config = _config(local, trust_remote_code)
    _check_family(checkpoint, config, task)
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: i for i, name in enumerate(labels)}
    config.problem_type = "single_label_classification"
    if not config.to_dict().get("auto_map"):
        # DeiT's distilled checkpoints name a class with two heads, which cannot be trained; the first class of a family
        # is the plain one.
        config.architectures = []
    notes = list(local.notes)
    if dropout is not None and not _set_dropout(config, dropout):
        notes.append(f"model.dropout: {config.model_type} has no dropout")
    if attn_implementation is None and not torch.accelerator.is_available():
        attn_implementation = "eager"
    planned(config, surgery)
    model, info = _from_pretrained(local, config, task, trust_remote_code, attn_implementation, seed)
    if dropout is not None:
        _check_dropout(model, dropout)
    fresh = _fresh_modules(local, model, info, seed, notes)
    if surgery:
        with seeded(seed), _quiet():
            model = operate(model, surgery)
        fresh = tuple(name for name, _ in model.named_modules() if name in fresh)
        notes.append(f"{local.name}: after surgery: {', '.join(map(spelled, surgery))}")
    # So that adapters and cards name the checkpoint, not the place in the cache it was read from.
    model.name_or_path = model.config.name_or_path = local.name
    for note in notes:
        log.info(note)
    return Loaded(model, fresh, tuple(notes))


def check_surgery(
    checkpoint: str | Path,
    surgery: Sequence[SurgeryStep],
    *,
    task: Task,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Refuse operations that the checkpoint's config cannot say, before any weight or row is read.

    Raises:
        InputError: see `surgery.planned`; or as `load_classifier`, of the family.
    """
    if surgery:
        config = _config(
            inspect_checkpoint(checkpoint, revision=revision, trust_remote_code=trust_remote_code), trust_remote_code
        )
        _check_family(str(checkpoint), config, task)
        planned(config, surgery)


def _check_family(checkpoint: str, config: PreTrainedConfig, task: Task) -> None:
    kind = config.model_type
    has_code = config.to_dict().get("auto_map")
    texts = type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    images = type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    if has_code or (images if task == "image-classification" else texts):
        decoder = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
        if config.is_encoder_decoder or decoder:
            raise InputError(
                f"{checkpoint}: {kind} generates text; expected an encoder such as bert, roberta or modernbert"
            )
        return
    if task == "image-classification":
        what = "is a text model, but the data are pictures; use a" if texts else "classifies no pictures; use a"
        raise InputError(f"{checkpoint}: {kind} {what} vit, deit, dinov2, swin, beit, convnext or resnet checkpoint")
    what = "is an image model, but the data are texts; use a" if images else "classifies no texts; use a"
    raise InputError(
        f"{checkpoint}: {kind} {what} bert, roberta, distilbert, deberta, electra or modernbert checkpoint"
    )


def _from_pretrained(
    local: LocalCheckpoint,
    config: PreTrainedConfig,
    task: Task,
    trust_remote_code: bool,
    attn_implementation: str | None,
    seed: int,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    auto = AutoModelForImageClassification if task == "image-classification" else AutoModelForSequenceClassification
    try:
        with _quiet(), seeded(seed):
            return auto.from_pretrained(
                local.folder,
                config=config,
                dtype=torch.float32,
                attn_implementation=attn_implementation,
                ignore_mismatched_sizes=True,
                weights_only=True,
                output_loading_info=True,
                trust_remote_code=trust_remote_code,
            )
    except (ValueError, RuntimeError, TypeError, KeyError, OSError, ImportError) as error:
        if attn_implementation == "sdpa" and "scaled_dot_product_attention" in str(error):
            raise InputError(
                f"model.attn_implementation: {config.model_type} has no sdpa attention; expected eager"
            ) from error
        raise InputError(f"{local.name}: cannot be loaded as a classifier: {first_line(error)}") from error


def _class_names(config: dict[str, Any]) -> list[str]:
    """Names of the classes in a config.json; as transformers has them where there are none."""
    names = config.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}
    return [str(names[i]) for i in sorted(names, key=int)]


def _set_dropout(config: PreTrainedConfig, rate: float) -> int:
    """Set every dropout rate of the config, unset ones included (None means: as another); returns how many there are.

    The families name them differently (hidden_dropout_prob, attention_dropout, drop_path_rate), but all with `drop`.
    """
    rates = [k for k, v in config.to_dict().items() if "drop" in k and (v is None or type(v) in (int, float))]
    for name in rates:
        setattr(config, name, float(rate))
    return len(rates)


def _check_dropout(model: PreTrainedModel, rate: float) -> None:
    for name, module in model.named_modules():
        if model.config.model_type == "efficientnet" and name.endswith(".projection.dropout"):
            # Their rates grow with depth from 0 to the config's, as stochastic depth's do elsewhere.
            continue
        if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d) and not math.isclose(module.p, rate):
            raise InputError(
                f"model.dropout: {name} keeps its own rate of {module.p}; "
                f"leave model.dropout unset for {model.config.model_type}"
            )


def _fresh_modules(
    local: LocalCheckpoint, model: PreTrainedModel, info: dict[str, Any], seed: int, notes: list[str]
) -> tuple[str, ...]:
    """Owners of the weights that start at random; refuses a checkpoint whose encoder is not this model's."""
    prefix = f"{model.base_model_prefix}."
    mismatched = {key: (theirs, ours) for key, theirs, ours in info["mismatched_keys"]}
    for key, (theirs, ours) in sorted(mismatched.items()):
        if key.startswith(prefix):
            raise InputError(
                f"{local.name}: {key} has the shape {list(theirs)}, its config.json says {list(ours)}; "
                "the two do not belong together"
            )
    missing = {key for key in info["missing_keys"] if not key.endswith("num_batches_tracked")}
    body = [f"{prefix}{key}" for key, _ in encoder(model).named_parameters()]
    lost = [key for key in body if key in missing]
    if len(lost) == len(body):
        raise InputError(
            f"{local.name}: none of its weights fits {type(model).__name__}; is this another kind of model?"
        )
    if len(lost) > len(body) / 2:
        raise InputError(
            f"{local.name}: {len(lost)} of {len(body)} encoder weights are missing ({lost[0]}, ...); "
            "the file and config.json do not belong together"
        )
    inner = [key for key in lost if "pooler" not in key]
    if inner:
        log.warning(
            "%s: %d of %d encoder weights are missing and start at random (%s, ...)",
            local.name,
            len(inner),
            len(body),
            inner[0],
        )
    owners = {key.rpartition(".")[0] for key in missing | mismatched.keys()}
    fresh = tuple(name for name, _ in model.named_modules() if name in owners)
    if mismatched:
        notes.append(f"{local.name}: its head was for other classes and is replaced")
    elif all(name.startswith(prefix) for name in fresh):
        if _class_names(local.config) == list(model.config.id2label.values()):
            notes.append(f"{local.name}: its head for {model.config.num_labels} classes is kept")
        else:
            # As many classes, but others: their weights must not decide about ours.
            layer = classification_layer(model)
            with seeded(seed):
                layer.reset_parameters()
            fresh = tuple(name for name, module in model.named_modules() if name in fresh or module is layer)
            notes.append(f"{local.name}: its head was for other classes and is replaced")
    if fresh:
        notes.append(f"{local.name}: {', '.join(fresh)} not in the checkpoint, started from seed {seed}")
    unused = sorted({key.split(".")[0] for key in info["unexpected_keys"]})
    if unused:
        notes.append(f"{local.name}: {', '.join(unused)} of the checkpoint not used")
    return fresh
