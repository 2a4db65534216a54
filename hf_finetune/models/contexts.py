"""Contexts for calls of libraries: without output, with a seed of their own, with errors of one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from hf_finetune.errors import InputError
from hf_finetune.utils.messages import one_line

# What transformers, peft and safetensors raise for files and configs that they cannot use. They validate little, so
# that a bad value is often found by an operation on it.
LIBRARY_ERRORS = (
    *(StrictDataclassError, ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError),
    AssertionError,
    *(OSError, EOFError, ImportError, re.error, SafetensorError),
)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress transformers' progress bars, and all of its log messages but errors."""
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
    """Seed torch's generators, and restore their states afterwards. A GPU counts if this process uses one."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed(seed)
        yield


@contextmanager
def input_errors(failure: str) -> Iterator[None]:
    """Turn the errors of a library into an `InputError`: what failed, and the library's message in one line."""
    try:
        yield
    except InputError:
        raise
    except LIBRARY_ERRORS as error:
        raise InputError(f"{failure}: {one_line(error, most=300)}") from error
