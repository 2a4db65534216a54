"""Loading of language models for generative augmentation, from checkpoints that hold no code, see `models.checkpoint`.

Checkpoints are checked before a run, without their weights, and loaded only for texts that no earlier run has cached.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import transformers

from hf_finetune.augmentation.generative.sources import Source, Task
from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint import LocalCheckpoint, inspect_checkpoint, settings_files
from hf_finetune.models.checkpoint_config import load_config
from hf_finetune.models.config import CHECKPOINT_LIMITS, CheckpointLimits
from hf_finetune.models.contexts import input_errors, quiet, seeded
from hf_finetune.models.processors import load_tokenizer, position_limit
from hf_finetune.utils import hashing

# These expect a language token, which no field here sets.
LANGUAGE_BY_TOKEN = ("m2m_100", "mbart", "nllb-moe", "plbart", "seamless_m4t", "seamless_m4t_v2")
# The limit of a model without position embeddings.
UNLIMITED = 1_000_000


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a vocabulary that are whole words."""

    words: dict[int, str]
    """Token to word."""
    tokens: dict[str, list[int]]
    """Case-folded word to tokens."""


@dataclass(frozen=True)
class LanguageModel:
    """A language model in float32 and evaluation mode, and its tokenizer."""

    name: str
    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase
    positions: int
    """Longest text in tokens."""

    @property
    def device(self) -> torch.device:
        return self.model.device

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return whole_words(self.tokenizer)


def whole_words(tokenizer: transformers.PreTrainedTokenizerBase) -> Vocabulary:
    """Return the tokens that are words of letters: the word after a space is encoded as exactly this token."""
    special = set(tokenizer.all_special_ids)
    tokens = [i for i in range(len(tokenizer)) if i not in special]
    texts = [text.strip() for text in tokenizer.batch_decode([[i] for i in tokens])]
    letters = [(i, text) for i, text in zip(tokens, texts, strict=True) if text.isalpha()]
    ids = tokenizer([f" {text}" for _, text in letters], add_special_tokens=False)["input_ids"] if letters else []
    words = {i: text for (i, text), encoded in zip(letters, ids, strict=True) if encoded == [i]}
    by_word: dict[str, list[int]] = {}
    for i, word in words.items():
        by_word.setdefault(word.casefold(), []).append(i)
    return Vocabulary(words, by_word)


def digest(source: Source, limits: CheckpointLimits = CHECKPOINT_LIMITS) -> str:
    """Return the commit on the Hub, or the SHA-256 of the files: weights, config and tokenizer.

    Raises:
        InputError: see `inspect_checkpoint`.
    """
    local = inspect_checkpoint(source.checkpoint, revision=source.revision, limits=limits)
    if local.commit is not None:
        return local.commit
    return hashing.of_files(*local.weights, *settings_files(local.folder).values())


def settings_digests(source: Source, limits: CheckpointLimits = CHECKPOINT_LIMITS) -> dict[str, str]:
    """Return the SHA-256 of each file beside the weights, by name.

    Raises:
        InputError: see `inspect_checkpoint`.
    """
    local = inspect_checkpoint(source.checkpoint, revision=source.revision, need_weights=False, limits=limits)
    return hashing.of_each(settings_files(local.folder))


def load(source: Source, device: torch.device, limits: CheckpointLimits = CHECKPOINT_LIMITS) -> LanguageModel:
    """Load a checkpoint for its task.

    Args:
        device: `meta` to check only the config, the tokenizer and the names of the weights.
        limits: limits on what the files of the checkpoint say.

    Raises:
        InputError: see `inspect_checkpoint` and `load_tokenizer`; the model is of another kind, or lacks weights, a
            mask token or an end token.
    """
    local, task = inspect_checkpoint(source.checkpoint, revision=source.revision, limits=limits), source.task
    config = load_config(local)
    (_check_masked if task == "masked words" else _check_translator)(local, config)
    positions = position_limit(config) or config.to_dict().get("max_position_embeddings") or UNLIMITED
    tokenizer = load_tokenizer(local, max_length=positions, sample=())
    # Overrides the checkpoint: `masked_lm.fill_masks` expects truncation to drop the last mask tokens.
    tokenizer.truncation_side = "right"
    if task == "masked words" and tokenizer.mask_token is None:
        raise InputError(f"{local.name}: its tokenizer has no mask token; name it in tokenizer_config.json")
    model = _load_model(local, config, task, device)
    if task == "translation" and model.generation_config.eos_token_id is None:
        raise InputError(f"{local.name}: no token ends its translations; set eos_token_id in generation_config.json")
    return LanguageModel(local.name, model, tokenizer, positions)


def _check_masked(local: LocalCheckpoint, config: transformers.PreTrainedConfig) -> None:
    if type(config) not in transformers.MODEL_FOR_MASKED_LM_MAPPING or config.is_encoder_decoder:
        raise InputError(
            f"{local.name}: {config.model_type} predicts no masked words; expected a masked language model such as "
            "distilbert/distilroberta-base"
        )


def _check_translator(local: LocalCheckpoint, config: transformers.PreTrainedConfig) -> None:
    kind = config.model_type
    if type(config) not in transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        raise InputError(
            f"{local.name}: {kind} translates nothing; expected a sequence-to-sequence checkpoint such as "
            "Helsinki-NLP/opus-mt-en-de"
        )
    if kind in LANGUAGE_BY_TOKEN:
        raise InputError(
            f"{local.name}: {kind} needs a language token, which is not supported; "
            "expected a checkpoint for two languages, such as Helsinki-NLP/opus-mt-en-de"
        )


def _load_model(
    local: LocalCheckpoint, config: transformers.PreTrainedConfig, task: Task, device: torch.device
) -> transformers.PreTrainedModel:
    auto = transformers.AutoModelForMaskedLM if task == "masked words" else transformers.AutoModelForSeq2SeqLM
    with input_errors(f"{local.name}: cannot be loaded for {task}"), quiet(), seeded(0):
        model, info = auto.from_pretrained(
            local.folder,
            config=config,
            dtype=torch.float32,
            device_map="meta" if device.type == "meta" else None,
            weights_only=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    if missing := sorted(info["missing_keys"]):
        raise InputError(
            f"{local.name}: {len(missing)} of its weights for {task} are missing ({missing[0]}, ...), so it would "
            "predict at random; use a checkpoint that was saved with its head"
        )
    return model.eval().to(device)
