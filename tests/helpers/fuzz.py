"""What hypothesis changes in files of any format, and what must come of it: a result, or one line.

The suite tries few examples, the same ones in every run. HF_FINETUNE_FUZZ_EXAMPLES=10000 tries that many others."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from hf_finetune.errors import InputError, RunError

T = TypeVar("T")
MOST_KB = 1_000_000
MORE = os.environ.get("HF_FINETUNE_FUZZ_EXAMPLES")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NUMBERS = [-1, 0, 1, 2, 3, 1.5, -0.0, 10**6, 10**10, 2**63, 2**70, -(2**40), 1e300, -1e300, float("nan"), float("inf")]
OTHERS = [
    "",
    "x",
    "nonsense",
    "[PAD]",
    "../..",
    "a/b",
    True,
    False,
    None,
    [],
    {},
    [0],
    [[[]]],
    ["x", 1],
    {"x": {"y": 1}},
]
EXTREME = st.sampled_from([*NUMBERS, *OTHERS])
"""Values of other types and sizes than those that a field expects."""


def fuzzed(examples: int) -> settings:
    """Settings of a test with so many examples in the suite."""
    return settings(
        max_examples=int(MORE or examples),
        deadline=None,
        derandomize=MORE is None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@dataclass(frozen=True)
class Damage:
    """A byte of a file that is another one, and perhaps the end of the file there."""

    place: float
    """From 0, the first byte, to 1, the last one."""
    byte: int
    is_cut: bool = False

    def __call__(self, content: bytes) -> bytes:
        """Return the damaged content."""
        at = int(self.place * (len(content) - 1))
        return content[:at] if self.is_cut else content[:at] + bytes([self.byte]) + content[at + 1 :]


DAMAGES = st.builds(Damage, st.floats(0, 1), st.integers(0, 255), st.booleans())


def paths(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places of all values in nested JSON."""
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(below for key, value in parts for below in paths(value, (*path, key)))]


def value_at(content: Any, path: tuple[Any, ...]) -> Any:
    """Return the value in one place of nested JSON."""
    for part in path:
        content = content[part]
    return content


def replaced(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return nested JSON with another value in one place."""
    if not path:
        return value
    content = copy.copy(content)
    content[path[0]] = replaced(content[path[0]], path[1:], value)
    return content


def without(content: Any, path: tuple[Any, ...]) -> Any:
    """Return nested JSON without the value in one place."""
    content = copy.copy(content)
    if len(path) == 1:
        del content[path[0]]
    else:
        content[path[0]] = without(content[path[0]], path[1:])
    return content


@st.composite
def edits(draw: st.DrawFn, content: Any, names: Sequence[str] = ()) -> Any:
    """JSON with one or two values that are others, are missing, have another name, or are there besides.

    Args:
        names: of values that may be there besides.
    """
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from([path for path in paths(content) if path]))
        what = draw(st.sampled_from(["value", "drop", "rename", "add"]))
        value = draw(EXTREME | JSON)
        if what == "add" and isinstance(content, dict) and names:
            content = content | {draw(st.sampled_from(names)): value}
        elif what in ("value", "add") or isinstance(path[-1], int):
            content = replaced(content, path, value)
        else:
            old, content = value_at(content, path), without(content, path)
            if what == "rename":
                parent = value_at(content, path[:-1])
                content = replaced(content, path[:-1], parent | {draw(st.text(max_size=5)): old})
        if not isinstance(content, dict) or not content:
            break
    return content


def result_or_one_line(use: Callable[[], T], error: type[RunError] = InputError) -> T | None:
    """Return a result; None: it was refused in one line.

    No warning is raised on the way, and where many examples are tried, little memory is taken.

    Raises:
        Exception: any other than `error`.
    """
    before = _memory("VmRSS")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = use()
        except error as refusal:
            assert str(refusal) and "\n" not in str(refusal)
            result = None
    # peft says that fields of a newer version or another task have no effect, Pillow that the metadata of an image are
    # damaged: what the user may want to know.
    assert not [w.message for w in caught if not {"peft", "PIL"} & set(Path(w.filename).parts)]
    assert _memory("VmHWM") - before < MOST_KB
    return result


def _memory(figure: str) -> int:
    """Return a figure of this process in kilobytes, and count the most memory from here on."""
    if MORE is None:
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    Path("/proc/self/clear_refs").write_text("5")
    return next(int(line.split()[1]) for line in lines if line.startswith(figure))
