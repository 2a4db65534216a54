"""Names of experiment trackers, as a field of the recipe and as a flag."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from hf_finetune.errors import InputError
from hf_finetune.utils.messages import did_you_mean, install_command

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

TRACKERS = ("tensorboard", "trackio", "wandb", "mlflow")
"""Trackers by the name of their package, which is that of the extra, too."""


class _Separated:
    """Annotation of a tuple of trackers: elements, or the whole value, may also be names with commas between them."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self._split, handler(source))

    @staticmethod
    def _split(value: Any) -> Any:
        if isinstance(value, str):
            value = (value,)
        if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
            return value
        names = tuple(dict.fromkeys(name.strip() for part in value for name in part.split(",") if name.strip()))
        for name in names:
            if name not in TRACKERS:
                known = f"; one of {', '.join(TRACKERS)}"
                raise InputError(f"train.report_to: no tracker {name!r}{did_you_mean(name, TRACKERS) or known}")
        return names


TrackerNames = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, _Separated()]


def check_installed(names: Sequence[str]) -> None:
    """Refuse trackers whose package is not installed.

    Raises:
        InputError: names the extra that installs it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"train.report_to: {name} is not installed; {install_command(name)}, or leave {name} out")
