"""The help of train is one screen of flags that exist."""

from __future__ import annotations

import re

import pytest

from hf_finetune.cli.flags_help import COMMON
from hf_finetune.cli.main import main_command
from hf_finetune.cli.run_job import RunJob
from hf_finetune.config.aliases import NAMES
from hf_finetune.config.keywords import field_names
from hf_finetune.config.recipe import Launch, blank_recipe


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main_command(arguments)
    assert not stop.value.code
    return capsys.readouterr().out


def test_common_help_is_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    lines = help_of(capsys, "train", "--help").splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 80
    assert help_of(capsys, "run", "quickstart", "-h").splitlines()[1:] == lines[1:]


def test_common_flags_exist() -> None:
    fields = set().union(*(field_names(blank_recipe(images=images)) for images in (False, True)))
    known = {*fields, *NAMES, *RunJob.__dataclass_fields__, *Launch.__dataclass_fields__}
    flags = {
        flag.replace("-", "_")
        for part in COMMON.values()
        for text, _ in part
        for flag in re.findall(r"--([\w-]+)", text)
    }
    assert flags <= known and len(flags) >= 30


def test_help_of_a_section_and_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    optim, everything = help_of(capsys, "train", "--help-all", "optim"), help_of(capsys, "train", "--help-all")
    assert "--optim.layer-decay" in optim and "--train.seed" not in optim
    assert "--optim.layer-decay" in everything and "--train.learning-rate" in everything and "SwapWords(" in everything


def test_an_unknown_section(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main_command(["train", "--help-all", "optimizer"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("--help-all optimizer: no such section; one of data, model, lora, ")
