"""The classes of whoever answers, found by their names."""

from __future__ import annotations

from collections.abc import Sequence

from hf_finetune.errors import InputError


def places_of(labels: Sequence[str], theirs: Sequence[str], *, owner: str) -> tuple[int, ...]:
    """Where each of the data's classes stands among those of a teacher, whose order may be another.

    Args:
        labels: names of the data's classes.
        theirs: names of the teacher's.
        owner: the teacher, for messages.

    Raises:
        InputError: these are not the same classes, or two of the teacher's have one name.
    """
    if len(set(theirs)) < len(theirs):
        twice = [name for i, name in enumerate(theirs) if name in theirs[:i]]
        raise InputError(
            f"objective.teacher: expected another name for each class, got {owner}, which has {_listed(twice)} more than once; "
            "name them apart (id2label in its config.json)"
        )
    places = {name: i for i, name in enumerate(theirs)}
    lacking = [name for name in labels if name not in places]
    strange = [name for name in theirs if name not in set(labels)]
    if lacking or strange:
        found = [f"lacks {_listed(lacking)}"] * bool(lacking) + [f"has {_listed(strange)} besides"] * bool(strange)
        raise InputError(
            f"objective.teacher: expected a classifier of the data's {len(labels)} classes, got {owner}, which "
            f"{' and '.join(found)}; train one on these classes, or name them alike (id2label in its config.json)"
        )
    return tuple(places[name] for name in labels)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
