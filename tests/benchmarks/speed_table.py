"""The Markdown table of the speed benchmark's measurements, see speed.py."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hf_finetune.evaluation.paired import paired_difference, verdict

# What is aimed at, and what is asked for at least: ratios to the rival; shares and seconds where said.
BARS = {
    "full": (1.5, 2.5),
    "defaults": (20, 33),
    "top": (3, 6),
    "predict": (4, 8),
    "memory": (1.0, 0.6),
    "start": (8, 4),
    "vit": (2.5, 4),
}
UTILISATION = {"movie": 0.5, "banking77": 0.4}
HEADER = "| measured | data | ours | rival | ratio | bar | aim | accuracy, ours and rival | difference in points |"

Runs = dict[int, dict[str, Any]]
"""Measurements of one side by their seed."""


def table(lines: list[dict[str, Any]]) -> str:
    """Everything that was measured, as Markdown. What is missing has no row; what failed says why below."""
    groups: dict[tuple[str, str, str], Runs] = {}
    for line in lines:
        key = line["key"]
        if "error" not in line and key["seed"] >= 0:
            groups.setdefault((key["part"], key["data"], key["side"]), {})[key["seed"]] = line
    rows: list[list[str]] = []
    for data in dict.fromkeys(data for _, data, _ in groups):
        rows += _of_data(groups, data)
    out = [HEADER, "|" + "---|" * (HEADER.count("|") - 1), *("| " + " | ".join(row) + " |" for row in rows)]
    out += _ablations(groups)
    known = [line for line in lines if "environment" in line]
    if known:
        where = known[-1]["environment"]
        seeds = 1 + max(line["key"]["seed"] for line in known)
        out += [
            "",
            f"{where['cpu']}, {where['threads']} threads, commit {str(where['commit'])[:9]}, {known[0]['at']} to "
            f"{lines[-1]['at']}, {seeds} seed(s); ratios are geometric means over the seeds, each with its own pair of runs.",
        ]
    failed = [line for line in lines if "error" in line]
    out += (
        ["", *(f"failed: {' '.join(map(str, line['key'].values()))}: {line['error']}" for line in failed)]
        if failed
        else []
    )
    return "\n".join(out)


def _of_data(groups: dict[tuple[str, str, str], Runs], data: str) -> list[list[str]]:
    """The rows of one data set."""

    def of(part: str, side: str) -> Runs:
        return groups.get((part, data, side), {})

    name, rows = data.split("-")[0], []
    full, top, defaults = of("full", "ours"), of("top", "ours top"), of("full", "stock defaults")
    tuned = [runs for (part, d, side), runs in groups.items() if part == "full" and d == data and "tuned" in side]
    # Of several learning rates one went on after the first seeds, the best on validation rows.
    rival: Runs = max(tuned, key=len, default={})
    rate = "train_rows_per_s"
    rows += _row("full fine-tune, rows/s, tuned (b)", data, full, rival, rate, BARS["full"], quality=True)
    rows += _row("same, from process start to result, s", data, full, rival, "wall_s", None, less=True)
    rows += _row("same, process start to first step, s", data, full, rival, "first_step_s", None, less=True)
    rows += _row("full fine-tune, rows/s, defaults (a)", data, full, defaults, rate, BARS["defaults"])
    rows += _row(
        "top 2 with the build of the cache, rows/s, (b) full",
        data,
        top,
        rival,
        (f"{rate}_with_build", rate),
        BARS["top"],
        quality=True,
    )
    shares = [{n: r for n, r in runs.items() if r.get("flop_utilisation") is not None} for runs in (full, rival)]
    if shares[0]:
        shown = [f"{_mean(runs, 'flop_utilisation'):.1%}" if runs else "" for runs in shares]
        bar = UTILISATION.get(name)
        rows.append(["FLOP utilisation", data, *shown, "", f"{bar:.0%}" if bar else "", "75%", "", ""])
    rows += _row("peak memory, MB, (b)", data, full, rival, "peak_rss_mb", BARS["memory"])
    predict = of("predict", "ours"), of("predict", "stock pipeline")
    rows += _row(
        "prediction, rows/s, pipeline in float32", data, *predict, "predict_rows_per_s", BARS["predict"], quality=True
    )
    starts = of("start", "ours"), of("start", "stock tuned")
    rows += _row("start-up to first step, s", data, *starts, "first_step_s", BARS["start"], absolute=True, less=True)
    pictures = of("vit", "ours")
    for setting, bar in (("tuned-fp32", BARS["vit"]), ("tuned", None)):
        said = "float32" if bar else "bf16"
        other = of("vit", f"stock {setting}")
        rows += _row(f"pictures, rows/s, stock {said}", data, pictures, other, rate, bar, quality=True)
    return rows


def _row(
    what: str,
    data: str,
    ours: Runs,
    rival: Runs,
    field: str | tuple[str, str],
    bar: tuple[float, float] | None,
    *,
    quality: bool = False,
    absolute: bool = False,
    less: bool = False,
) -> list[list[str]]:
    """One row, or none where a side is missing.

    Args:
        field: what is compared; of two, ours and the rival's.
        absolute: the bar is in the field's own unit.
        less: less of the field is better, the ratio is the rival's over ours.
    """
    mine, theirs = (field, field) if isinstance(field, str) else field
    seeds = sorted(ours.keys() & rival.keys())
    if not seeds:
        return []
    ratios = [ours[s][mine] / rival[s][theirs] for s in seeds]
    ratios = [1 / r for r in ratios] if less else ratios
    ratio = f"{math.exp(np.mean(np.log(ratios))):.2f}x"
    ratio += f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    unit = "" if absolute else "x"
    limits = ["", ""] if bar is None else [f"{limit:g}{unit}" for limit in bar]
    judged = ["", ""]
    if quality and "accuracy" in ours[seeds[0]] and "accuracy" in rival[seeds[0]]:
        judged[0] = f"{_mean(ours, 'accuracy', seeds):.4f}, {_mean(rival, 'accuracy', seeds):.4f}"
    if quality and "correct" in ours[seeds[0]] and "correct" in rival[seeds[0]]:
        both = (np.array([runs[s]["correct"] for s in seeds]) for runs in (ours, rival))
        difference = paired_difference(*both)
        judged[1] = (
            f"{100 * difference.value:+.2f} [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}] {verdict(difference)}"
        )
    shown = [_short(_mean(ours, mine, seeds)), _short(_mean(rival, theirs, seeds))]
    return [[what, data, *shown, ratio, *limits, *judged]]


def _ablations(groups: dict[tuple[str, str, str], Runs]) -> list[str]:
    """What each trick gives: rows a second without it, against the run as it comes."""
    out: list[str] = []
    for data in dict.fromkeys(data for part, data, _ in groups if part == "ablations"):
        runs = {side: found[0] for (part, d, side), found in groups.items() if part == "ablations" and d == data}
        base = runs.get("as it comes")
        if base is None:
            continue
        out += [
            "",
            f"| {data}: one thing otherwise | flags | rows/s | as it comes / this | peak MB | accuracy |",
            "|---|---|---|---|---|---|",
        ]
        for side, run in runs.items():
            rate = run["train_rows_per_s_with_build"]
            flags = " ".join(run["key"]["flags"].split()[3:])
            out.append(
                f"| {side} | `{flags}` | {_short(rate)} | {base['train_rows_per_s_with_build'] / rate:.2f}x "
                f"| {run['peak_rss_mb']:,.0f} | {run['accuracy']:.3f} |"
            )
    return out


def _mean(runs: Runs, field: str, seeds: list[int] | None = None) -> float:
    return float(np.mean([run[field] for seed, run in runs.items() if seeds is None or seed in seeds]))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
