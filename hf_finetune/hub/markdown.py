"""Values as escaped Markdown: text of the user cannot break the card."""

import json
import re
from collections.abc import Mapping
from typing import Any

from hf_finetune.evaluation.differences import change, largest_loss, metric_of, unit
from hf_finetune.evaluation.report import averaged
from hf_finetune.hub.local_paths import shorten


def cell(text: str) -> str:
    """Escape the delimiter of table cells."""
    return text.replace("|", "\\|")


def interval(metric: Mapping[str, float] | None) -> str:
    """Return a value with its bounds, or an empty string for None."""
    if not metric:
        return ""
    return f"{metric['value']:z.3f} [{metric['low']:z.3f}, {metric['high']:z.3f}]{averaged(metric)}"


def gain(difference: Mapping[str, Any]) -> str:
    """Return a paired difference as `+1.2 [+0.1, +2.3] points of accuracy`, or `+0.012 [+0.001, +0.023] of R²`."""
    return f"{' '.join(change(difference))} {unit(metric_of(difference))}"


def number(value: float) -> str:
    """Return four significant digits, or all digits of a whole number."""
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{round(value):,}"
    return f"{value:.4g}"


def value_cell(value: Any) -> str:
    """Return a number as `number` does, anything else as inline code."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return number(value) if is_number else code(shorten(value) if isinstance(value, str) else json.dumps(value))


def plain(text: str) -> str:
    """Return `text` on one line, escaped for Markdown and HTML."""
    return re.sub(r"([\\`*_\[\]<>|#~&$])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Return `text` as inline code, fenced by more backticks than it holds."""
    text = " ".join(str(text).split())
    ticks = _backticks(text)
    space = " " if text[:1] in ("`", "") or text.endswith("`") else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def quoted(text: str) -> str:
    """Return a Python string literal."""
    return json.dumps(text, ensure_ascii=False)


def settings(fields: Mapping[str, Any]) -> str:
    """Return fields and their values as `a: 1, b: 2`."""
    return ", ".join(f"{name}: {value}" for name, value in fields.items())


def fence(text: str) -> str:
    """Return a code fence longer than any run of backticks in `text`."""
    return _backticks(text, least=3)


def _backticks(text: str, least: int = 1) -> str:
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))


FILTERS = {f.__name__: f for f in (cell, interval, gain, largest_loss, number, plain, code, quoted, settings, fence)}
"""The filters of the card's template."""
