"""Rules on a pair of numbers."""

from dataclasses import dataclass, field

import pytest

from hf_finetune.errors import InputError
from hf_finetune.utils import rules


@dataclass(frozen=True)
class Section:
    a: int = 0
    b: int = 0


@dataclass(frozen=True)
class Pair:
    section: Section = field(default_factory=Section)


Conflict = rules.Conflict[Pair]
A_WITH_B = Conflict("section.a", lambda r: f"0 with section.b {r.section.b}", lambda r: r.section.b)


def test_a_conflict_names_field_expectation_and_value() -> None:
    A_WITH_B.refuse(Pair(Section(1, 0)))
    A_WITH_B.refuse(Pair(Section(0, 2)))
    with pytest.raises(InputError, match=r"^section\.a: expected 0 with section\.b 2, got 1$"):
        A_WITH_B.refuse(Pair(Section(1, 2)))
    with pytest.raises(InputError, match=r", got 'x'$"):
        Conflict("section.a", "0", value=lambda r: "x").refuse(Pair())


def test_a_conflict_only_when_a_condition_holds() -> None:
    (restricted,) = rules.only_when(lambda r: r.section.b > 2, A_WITH_B)
    restricted.refuse(Pair(Section(1, 2)))
    with pytest.raises(InputError):
        restricted.refuse(Pair(Section(1, 3)))


def test_unused_options_are_noted_once_and_not_at_their_default() -> None:
    options = [rules.Unused[Pair]("section.a", reason, lambda r: r.section.b == 0) for reason in ("b is 0", "again")]
    assert rules.unused_options(Pair(Section(1, 0)), options) == ("section.a has no effect here: b is 0",)
    assert (
        rules.unused_options(Pair(Section(0, 0)), options) == rules.unused_options(Pair(Section(1, 1)), options) == ()
    )
