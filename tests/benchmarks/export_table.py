"""Speed, size and labels of every export format of a text classifier, each by its example.py in processes of its own.

    python tests/benchmarks/export_table.py runs/reviews test.csv OUTPUT [--formats onnx,onnx-int8] [--rows 512]

Prints one Markdown table. An export is written to OUTPUT/NAME, a measurement to OUTPUT/NAME.ROUND.json; what is there is
not repeated. Each round (--rounds 3) starts each format once, so that a slow minute of the machine is not that of a single
format; the table has medians over the rounds. Texts are of the column `text`, in the order of the file, with their own
lengths. Times are from text to logits. `Classifier` is the run itself; its labels are those that are compared.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

SOURCE = "Classifier"
FORMATS = {
    "onnx": ("onnx", "float32"),
    "onnx-int8": ("onnx", "int8"),
    "onnx-int8-static": ("onnx", "int8-static"),
    "openvino": ("openvino", "float32"),
    "openvino-int8-static": ("openvino", "int8-static"),
    "torch": ("torch", "float32"),
    "safetensors-bfloat16": ("safetensors", "bfloat16"),
    "sentence-transformers": ("sentence-transformers", "float32"),
}
BATCH, WARM_UP = 32, 3
HEADER = "| format | MB | p50, p95, p99 of one row, ms | rows/s, batches of 32 | cold start, s | same labels |"


def main() -> None:
    """Export, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("texts", type=Path, help="labeled rows, which judge the exports, too")
    parser.add_argument("output", type=Path)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the measured calls of a batch size, at most")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := [name for name in options.formats.split(",") if name not in FORMATS]:
        parser.error(f"--formats {unknown[0]}: expected some of {', '.join(FORMATS)}")
    if options.measure is not None:
        print(json.dumps(measured(options)))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    refused = {name: why for name in options.formats.split(",") if (why := export(options, name)) is not None}
    names = [SOURCE, *(name for name in options.formats.split(",") if name not in refused)]
    for number in range(options.rounds):
        for name in names:
            measure(options, name, options.output / f"{name}.{number}.json")
    print(table(options, names))
    print(*(f"\n{name}: {why}" for name, why in refused.items()), sep="")


def export(options: argparse.Namespace, name: str) -> str | None:
    """Write an export that is not there; return why it was refused."""
    kind, weights = FORMATS[name]
    folder = options.output / name
    if (folder / "export.json").is_file():
        return None
    # What it loses stands in the table, in the place of a refusal.
    flags = ["--data", options.texts, "--rows", str(options.rows), "--max-loss", "100", "--no-latency"]
    command = [sys.executable, "-m", "hf_finetune", "export", options.run, "--format", kind, "--weights", weights]
    print(f"export {name} ...", file=sys.stderr, flush=True)
    child = subprocess.run([*command, "--output", folder, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return child.stderr.decode().strip().splitlines()[-1] if child.returncode else None


def measure(options: argparse.Namespace, name: str, path: Path) -> None:
    """Measure a format in a process of its own, unless its file is there."""
    if path.is_file():
        return
    print(f"measure {path.stem} ...", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, *map(str, (options.run, options.texts, options.output)), "--measure", name]
    command += ["--rows", str(options.rows), "--seconds", str(options.seconds)]
    child = subprocess.run(command, capture_output=True, text=True)
    if child.returncode:
        sys.exit(f"{path.stem} failed:\n{child.stderr}")
    partial = path.with_suffix(".partial")
    partial.write_text(child.stdout.splitlines()[-1])
    partial.rename(path)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Measure in this process."""
    texts = pd.read_csv(options.texts)["text"].astype(str).tolist()[: options.rows]
    compute = loaded(options)
    compute(texts[:1])
    found: dict[str, Any] = {"cold_start_s": time.time() - psutil.Process().create_time()}
    singles = seconds_of(compute, [[text] for text in texts], options.seconds)
    found |= dict(zip(("p50_ms", "p95_ms", "p99_ms"), 1000 * np.percentile(singles, (50, 95, 99)), strict=True))
    batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    full = [batch for batch in batches if len(batch) == BATCH] or batches
    found["rows_per_s"] = len(full[0]) / float(np.mean(seconds_of(compute, full, options.seconds)))
    found["labels"] = [int(label) for batch in batches for label in np.asarray(compute(batch)).argmax(-1)]
    return found


def loaded(options: argparse.Namespace) -> Callable[[list[str]], Any]:
    """Return what computes the logits of texts, the probabilities of a Classifier, or the embeddings."""
    if options.measure == SOURCE:
        from hf_finetune import Classifier

        return Classifier.load(options.run).predict_proba
    file = options.output / options.measure / "example.py"
    example: dict[str, Any] = {"__name__": "example", "__file__": str(file)}
    exec(compile(file.read_text(), str(file), "exec"), example)
    return example["embeddings" if options.measure == "sentence-transformers" else "logits"]


def seconds_of(compute: Callable[[list[str]], Any], batches: list[list[str]], most_s: float) -> list[float]:
    """Return the seconds of each batch, once each, or until the time is over."""
    for batch in batches[:WARM_UP]:
        compute(batch)
    seconds: list[float] = []
    for batch in batches:
        started = time.perf_counter()
        compute(batch)
        seconds.append(time.perf_counter() - started)
        if sum(seconds) > most_s:
            break
    return seconds


def table(options: argparse.Namespace, names: list[str]) -> str:
    """Return the medians of the rounds as Markdown."""
    rounds = {
        name: [json.loads((options.output / f"{name}.{i}.json").read_text()) for i in range(options.rounds)]
        for name in names
    }
    labels = np.array(rounds[SOURCE][0]["labels"])
    lines = [HEADER, "|" + "---|" * (HEADER.count("|") - 1)]
    for name in names:
        fields = ("p50_ms", "p95_ms", "p99_ms", "rows_per_s", "cold_start_s")
        p50, p95, p99, rate, start = (float(np.median([each[field] for each in rounds[name]])) for field in fields)
        same = f"{100 * np.mean(labels == rounds[name][0]['labels']):.1f}%" if "sentence" not in name else "embeddings"
        size = f"{megabytes(options, name):.1f}"
        lines.append(f"| {name} | {size} | {p50:.1f}, {p95:.1f}, {p99:.1f} | {rate:,.0f} | {start:.1f} | {same} |")
    return "\n".join([*lines, "", f"{len(labels)} rows, medians of {options.rounds} rounds"])


def megabytes(options: argparse.Namespace, name: str) -> float:
    """Return the size of the network: of its files, or of the run's weights in float32."""
    if name == SOURCE:
        return sum(path.stat().st_size for path in options.run.glob("*/*.safetensors")) / 1e6
    document = json.loads((options.output / name / "export.json").read_text())
    return document["bytes"][document["format"]] / 1e6


if __name__ == "__main__":
    main()
