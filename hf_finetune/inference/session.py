"""Calls from Python: notes on stderr as in a shell, errors in the words of Python, and no settings left changed."""

from __future__ import annotations

import logging
import os
import random
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import datasets
import numpy as np
import torch

from hf_finetune.config.keywords import shortest_keyword
from hf_finetune.data.memory import PREFIX
from hf_finetune.errors import RunError
from hf_finetune.models.contexts import quiet
from hf_finetune.tasks.trained_model import quiet_libraries
from hf_finetune.training.precision import settings_restored
from hf_finetune.utils.console import begin_call
from hf_finetune.utils.exit_status import PACKAGE_LOGGER, notes_on_stderr

# With a value behind it that cannot be the next word of the sentence: COL, a number, or the name of a class.
_FLAG = re.compile(
    r"(?<![\w-])--([a-z][a-z.-]*[a-z])"
    r"(?: (COL|\d[\d.]*\d|\d|[A-Z][a-z]+(?:[A-Z]\w*)?)(?=[\s,;:)]|\.(?:\s|$)|$))?"
)
_SHELL_ONLY = {"find-lr": "`hf-finetune train --find-lr`"}
_SWITCHES = ("resume", "trust-remote-code", "drop-bad-rows", "reverse-complement")


@contextmanager
def python_session(*, notes: bool = True) -> Iterator[None]:
    """Run the block as a command does, and restore afterwards what it changes in this process.

    Restored are log levels, progress bars, warnings, the environment, threads and number formats of torch, and the
    states of all random generators. A program that configures the logger `hf_finetune` gets the notes there.

    Args:
        notes: print notes and warnings on stderr. False: none of them.
    """
    with ExitStack() as stack:
        for restored in (quiet, _data_bars_restored, _environment_restored, _generators_restored, settings_restored):
            stack.enter_context(restored())
        quiet_libraries()
        begin_call()
        if not notes:
            stack.enter_context(_silence())
        elif not PACKAGE_LOGGER.handlers and PACKAGE_LOGGER.level == logging.NOTSET:
            stack.enter_context(notes_on_stderr())
        try:
            yield
        except RunError as error:
            error.args = (in_python(str(error)), *error.args[1:])
            raise


def in_python(message: str) -> str:
    """Return a message with flags as keywords, `label=` for --label, and data in memory by their names alone."""

    def keyword(flag: re.Match[str]) -> str:
        if flag[1] in _SHELL_ONLY:
            return _SHELL_ONLY[flag[1]]
        value = "True" if flag[1] in _SWITCHES else flag[2] or ""
        value = f'"{value}"' if value[:1].isalpha() and value not in ("True", "COL") else value
        return f"`{shortest_keyword(flag[1].replace('-', '_'))}={value}`"

    return _FLAG.sub(keyword, message).replace(PREFIX, "")


@contextmanager
def _data_bars_restored() -> Iterator[None]:
    bars = datasets.is_progress_bar_enabled()
    try:
        yield
    finally:
        if bars:
            datasets.enable_progress_bars()


@contextmanager
def _environment_restored() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _generators_restored() -> Iterator[None]:
    state, legacy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(legacy)


@contextmanager
def _silence() -> Iterator[None]:
    level = PACKAGE_LOGGER.level
    PACKAGE_LOGGER.setLevel(logging.ERROR)
    try:
        yield
    finally:
        PACKAGE_LOGGER.setLevel(level)
