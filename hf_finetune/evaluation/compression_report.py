"""What a compression cost and gave, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_finetune.evaluation.differences import NO_SHARES, change, points
from hf_finetune.utils.console import table, wrapped
from hf_finetune.utils.messages import counted

NOTES = {"refused": "refused", "left": "left out"}
"""How the verdicts of candidates that were not kept are shown, on the card, too."""


def rows_of(section: Mapping[str, Any]) -> list[list[str]]:
    """Return the lines of the table, the title first: name, quality against the source, rate, latency of one row, size,
    and what became of it.

    Args:
        section: `compression` of result.json; that of an unfinished one has no `chosen`.
    """
    metric, chosen = section["metric"], section.get("chosen")
    title = f"{metric}, change" if metric in NO_SHARES else f"{metric}, change in points"
    lines = [["candidate", title, "rows/s", "p95 ms", "MB", ""]]
    for each in section["candidates"]:
        score, difference = each["metrics"].get(metric), each["difference"]
        quality = ""
        if difference is not None:
            quality = " ".join(change(difference, decimals=2))
        elif score is not None:
            quality = f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
        measured = ["", "", ""]
        if each["latency"]:
            measured = [f"{each['rows_per_s']:,.0f}", f"{p95(each):.2f}", f"{each['bytes'] / 1e6:.1f}"]
        note = "chosen" if each["name"] == chosen else NOTES.get(each["verdict"], "")
        if each["name"] in section.get("front", ()) and not note:
            note = "front"
        lines.append([each["name"], quality, *measured, note])
    return lines


def p95(candidate: Mapping[str, Any]) -> float:
    """Return the 95th percentile of the latency of a row alone, with all threads, in milliseconds."""
    alone = [each for each in candidate["latency"] if each["batch_size"] == 1]
    return float(max(alone, key=lambda each: each["threads"])["p95_ms"])


def compression_text(section: Mapping[str, Any], *, width: int | None = None) -> str:
    """Return the table, why candidates were refused or left, and the final number."""
    parts = [table(rows_of(section), right=(1, 2, 3, 4), width=width)]
    reasons = [
        wrapped(f"{each['name']}: {NOTES[each['verdict']]}: {each['reason']}", indent=2, width=width)
        for each in section["candidates"]
        if each["verdict"] in NOTES
    ]
    parts += ["\n".join(reasons)] if reasons else []
    parts += [wrapped(final_text(section), indent=0, width=width)] if section.get("chosen") else []
    return "\n\n".join(parts)


def final_text(section: Mapping[str, Any]) -> str:
    """Return what the chosen candidate is on rows that did not choose."""
    chosen = next(each for each in section["candidates"] if each["name"] == section["chosen"])
    rows, speed = section["rows"], section["speedup"]
    split = "test row" if rows["final_is_test"] else "validation row that did not choose"
    smaller = section["smaller"]
    size = f"{smaller:.2f} times smaller" if smaller >= 1 else f"{1 / smaller:.2f} times larger"
    return (
        f"{chosen['name']}: {speed['value']:.2f} [{speed['low']:.2f}, {speed['high']:.2f}] times the rows per second "
        f"of the source by predict ({section['source_format']}), {size}, "
        f"{points(chosen['final']['difference'], decimals=2)} on {counted(rows['final'], split)}"
    )
