"""Numbers of an operation that change over the training: a weight that grows, a temperature that falls."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any, Literal, TypeVar

import tyro

from hf_finetune.utils.config import configclass
from hf_finetune.utils.config_errors import Check

T = TypeVar("T")


@configclass
class Ramp:
    """From one number at the first optimizer step to another at the last."""

    start: float
    """At the first step."""
    end: float
    """At the last step."""
    form: Literal["linear", "cosine"] = "linear"
    """linear: by as much in every step; cosine: slowly at both ends."""

    def at(self, progress: float) -> float:
        """The number after this share of the training, from 0 to 1."""
        share = progress if self.form == "linear" else (1 - math.cos(math.pi * progress)) / 2
        return self.start + share * (self.end - self.start)


def _from_flag(arguments: list[str]) -> float | Ramp:
    start, *rest = arguments[0].split(":")
    if not rest:
        return float(start)
    match rest:
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
"""A number, or what changes it; on the command line 0.5, or 1:0.1, or 1:0.1:cosine."""
Weight = Annotated[Number, Check(lambda number: min(ends_of(number)) >= 0, "0 or more")]
Temperature = Annotated[Number, Check(lambda number: min(ends_of(number)) > 0, "a number above 0")]


def ends_of(number: Number) -> tuple[float, ...]:
    """The numbers between which it stays."""
    return (number.start, number.end) if isinstance(number, Ramp) else (number,)


def constant(number: Number) -> float:
    """The number of an operation that `settled` has given."""
    assert not isinstance(number, Ramp)
    return number


def settled(operation: T, progress: float) -> T:
    """The frozen dataclass `operation` as it is after this share of the training: every `Ramp` among its fields a
    number."""
    assert dataclasses.is_dataclass(operation) and not isinstance(operation, type)
    fields = ((f.name, getattr(operation, f.name)) for f in dataclasses.fields(operation))
    ramps: dict[str, Any] = {name: ramp.at(progress) for name, ramp in fields if isinstance(ramp, Ramp)}
    return dataclasses.replace(operation, **ramps) if ramps else operation
