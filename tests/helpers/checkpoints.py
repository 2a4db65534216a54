"""Loaders for tests that take the folder of a checkpoint, and inspect it first."""

from pathlib import Path

import pytest
from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from hf_finetune.errors import InputError
from hf_finetune.models import checkpoint_config, loading, processors
from hf_finetune.models.checkpoint import inspect_checkpoint
from hf_finetune.models.loading import Loaded


def load_classifier(folder: str | Path, *, trust_remote_code: bool = False, **options) -> Loaded:
    """See `models.loading.load_classifier`."""
    need_weights = options.get("from_config") is None
    local = inspect_checkpoint(folder, trust_remote_code=trust_remote_code, need_weights=need_weights)
    return loading.load_classifier(local, **options)


def load_tokenizer(folder: str | Path, **options) -> PreTrainedTokenizerBase:
    """See `models.processors.load_tokenizer`."""
    need_weights = options.get("from_config") is None
    return processors.load_tokenizer(inspect_checkpoint(folder, need_weights=need_weights), **options)


def load_image_processor(folder: str | Path, **options) -> BaseImageProcessor:
    """See `models.processors.load_image_processor`."""
    return processors.load_image_processor(inspect_checkpoint(folder), **options)


def check_config(folder: str | Path, **options) -> None:
    """See `models.checkpoint_config.check_config`."""
    need_weights = options.get("from_config") is None
    checkpoint_config.check_config(inspect_checkpoint(folder, need_weights=need_weights), **options)


def refusal(call) -> str:
    """The message, of one line, with which an input is refused."""
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refused(checkpoint: Path | str, *words: str, **options) -> str:
    """The message, of one line and with these words, with which a checkpoint is refused."""
    message = refusal(lambda: inspect_checkpoint(str(checkpoint), **options))
    assert message.startswith(str(checkpoint))
    for word in words:
        assert word in message
    return message
