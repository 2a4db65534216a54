"""A checkpoint without weights for `model.tokenizer`: a config and a tokenizer of its own, in a temporary folder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

from hf_finetune.models.checkpoint import LocalCheckpoint
from hf_finetune.models.checkpoint_config import load_config
from hf_finetune.models.config import CheckpointLimits
from hf_finetune.models.contexts import quiet
from hf_finetune.models.own_tokenizers import IDS, OwnTokenizer, build_tokenizer
from hf_finetune.utils.files import ScratchFolder
from hf_finetune.utils.sequences import SequenceKind

# Numbers of the special tokens by their names in the configs of families.
TOKEN_IDS = {**IDS, "bos": IDS["cls"], "eos": IDS["sep"]}
# Tokens of a config whose tokenizer is not built yet.
UNBUILT = 64


def is_family(name: str) -> bool:
    """Return whether `model.checkpoint` names a family of transformers, such as bert, in place of a checkpoint."""
    return name in CONFIG_MAPPING


def family_checkpoint(family: str, limits: CheckpointLimits) -> LocalCheckpoint:
    """Return a checkpoint with the default config of a family, and no tokenizer yet."""
    fields: dict[str, Any] = {"vocab_size": UNBUILT, **{f"{name}_token_id": i for name, i in TOKEN_IDS.items()}}
    with quiet():
        config = CONFIG_MAPPING[family](**fields)
    return _written(LocalCheckpoint(family, Path(), None, {}, (), (), limits=limits), config)


def with_tokenizer(
    local: LocalCheckpoint,
    own: OwnTokenizer,
    kind: SequenceKind,
    texts: Sequence[str],
    *,
    from_config: Mapping[str, Any],
    max_length: int,
) -> LocalCheckpoint:
    """Return a checkpoint of the same family with a tokenizer that is built from texts.

    Args:
        from_config: see `from_config.resized`.
        max_length: stored with the tokenizer.
    """
    config = load_config(local, from_config)
    fields = config.to_dict()
    tokenizer = build_tokenizer(
        own, kind, texts, max_length=max_length, token_types=fields.get("type_vocab_size", 0) > 1
    )
    config.vocab_size = len(tokenizer)
    for name, number in TOKEN_IDS.items():
        if f"{name}_token_id" in fields:
            setattr(config, f"{name}_token_id", number)
    written = _written(local, config)
    tokenizer.save_pretrained(written.folder)
    return written


def _written(local: LocalCheckpoint, config: PreTrainedConfig) -> LocalCheckpoint:
    scratch = ScratchFolder()
    config.save_pretrained(scratch.path)
    return replace(local, folder=scratch.path, config=config.to_dict(), weights=(), stored=None, scratch=scratch)
