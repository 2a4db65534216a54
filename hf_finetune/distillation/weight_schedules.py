"""Numbers that change over the training: a weight that grows, a temperature that falls."""

import dataclasses
import math
from typing import Annotated, Any, Literal, TypeVar

import tyro

from hf_finetune.utils.config import configclass
from hf_finetune.utils.config_errors import Check

T = TypeVar("T")


@configclass
class Ramp:
    """A number that moves from `start` at the first optimizer step to `end` at the last."""

    start: float
    """Value at the first step."""
    end: float
    """Value at the last step."""
    form: Literal["linear", "cosine"] = "linear"
    """linear: by the same amount in every step; cosine: slowly at both ends."""

    def at(self, progress: float) -> float:
        """Return the number after this share of the training, from 0 to 1."""
        share = progress if self.form == "linear" else (1 - math.cos(math.pi * progress)) / 2
        return self.start + share * (self.end - self.start)


def _from_flag(arguments: list[str]) -> float | Ramp:
    start, *rest = arguments[0].split(":")
    match rest:
        case []:
            return float(start)
        case [end] | [end, "linear"]:
            return Ramp(float(start), float(end))
        case [end, "cosine"]:
            return Ramp(float(start), float(end), "cosine")
    raise ValueError(f"expected START:END or START:END:cosine, got {arguments[0]}")


def _to_flag(number: float | Ramp) -> list[str]:
    return [f"{number.start}:{number.end}:{number.form}" if isinstance(number, Ramp) else str(number)]


Number = Annotated[
    float | Ramp,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT|START:END[:cosine]",
        instance_from_str=_from_flag,
        is_instance=lambda value: isinstance(value, float | int | Ramp),
        str_from_instance=_to_flag,
    ),
]
"""A number or its schedule; on the command line 0.5, 1:0.1 or 1:0.1:cosine."""
Weight = Annotated[Number, Check(lambda number: min(ends_of(number)) >= 0, "0 or more")]
Temperature = Annotated[Number, Check(lambda number: min(ends_of(number)) > 0, "a number above 0")]


def ends_of(number: Number) -> tuple[float, ...]:
    """Return the values between which a number moves."""
    return (number.start, number.end) if isinstance(number, Ramp) else (number,)


def fixed(number: Number) -> float:
    """Return a number of a loss that comes from `at_progress`, so that it is no `Ramp` any more."""
    assert not isinstance(number, Ramp)
    return number


def at_progress(loss: T, progress: float) -> T:
    """Return a loss with each `Ramp` among its fields replaced by its value at this share of the training.

    Args:
        loss: a frozen dataclass.
        progress: from 0 to 1.
    """
    assert dataclasses.is_dataclass(loss) and not isinstance(loss, type)
    fields = ((f.name, getattr(loss, f.name)) for f in dataclasses.fields(loss))
    values: dict[str, Any] = {name: value.at(progress) for name, value in fields if isinstance(value, Ramp)}
    return dataclasses.replace(loss, **values) if values else loss
