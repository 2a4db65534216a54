"""Values as escaped Markdown: text of the user cannot break the card."""

import json
import re
from collections.abc import Mapping
from typing import Any

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


def percentage_points(difference: Mapping[str, float]) -> str:
    """Return a difference of shares with its bounds, in percentage points."""
    value, low, high = (100 * difference[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def gain(difference: Mapping[str, Any]) -> str:
    """Return a paired difference with its metric; R², kappa and correlations are no percentages."""
    metric = difference.get("metric", "accuracy")
    if name := {"r2": "R²", "quadratic_kappa": "kappa", "spearman": "Spearman's correlation"}.get(metric):
        return "{value:+z.3f} [{low:+z.3f}, {high:+z.3f}] of ".format(**difference) + name
    return f"{percentage_points(difference)} points of {metric}"


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


FILTERS = {
    f.__name__: f for f in (cell, interval, percentage_points, gain, number, plain, code, quoted, settings, fence)
}
"""The filters of the card's template."""
