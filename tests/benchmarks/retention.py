"""What a student keeps of its teacher, and what it costs: quality on the same test rows, time of a single row, size.

    python tests/benchmarks/retention.py DATA --teacher TEACHER_RUN --students RUN [RUN ...] [--kind image] [--rows 200]

Runs of one student with several seeds, such as `variants.py students --keep` leaves, and one teacher. Prints one line
of JSON: the share of the teacher's accuracy that the students keep, with the interval of their paired difference, over
rows and seeds, divided by the teacher's accuracy; the median milliseconds that transformers' own pipeline takes for one
row, float32, teacher and student in turns; parameters and bytes of the weights."""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers import pipeline

from hf_finetune.data.config import Source
from hf_finetune.data.image_decoding import decode
from hf_finetune.data.loading import load
from hf_finetune.evaluation.intervals import exact
from hf_finetune.evaluation.paired import paired_difference, verdict
from hf_finetune.inference.scoring import probabilities
from hf_finetune.tasks.trained_model import load_trained, quiet_libraries


def milliseconds(folders: list[Path], kind: str, rows: list[Any]) -> list[float]:
    """Median time of one row in each model, from text or picture to label; the models take turns row by row."""
    models = [pipeline(f"{kind}-classification", str(folder / "model"), device="cpu") for folder in folders]
    taken: list[list[float]] = [[] for _ in models]
    for i, row in enumerate([*rows[:5], *rows]):
        for model, times in zip(models, taken, strict=True):
            started = time.perf_counter()
            model(row)
            if i >= 5:  # the first rows are slower than the rule
                times.append(1000 * (time.perf_counter() - started))
    return [statistics.median(times) for times in taken]


def size(folder: Path) -> dict[str, int]:
    """Parameters and bytes of a run's model."""
    weights = (folder / "model" / "model.safetensors").stat().st_size
    return {"parameters": load_trained(str(folder)).model.num_parameters(), "bytes": weights}


def main() -> None:
    """Answer the test rows with each, time the teacher and the first student, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--students", type=Path, nargs="+", required=True)
    parser.add_argument("--kind", choices=("text", "image"), default="text")
    parser.add_argument("--rows", type=int, default=200, help="test rows that are timed")
    options = parser.parse_args()
    quiet_libraries()
    splits = load(Source(options.data), options.kind)
    labels_N = np.asarray(splits.test["label"][:])
    right = []
    for folder in (options.teacher, *options.students):
        classifier = load_trained(str(folder))
        assert classifier.labels == tuple(splits.labels), f"{folder}: other classes than {options.data}"
        right.append(probabilities(classifier, splits.test).argmax(-1) == labels_N)
    teacher_N, students_SN = right[0], np.stack(right[1:])
    teacher = float(teacher_N.mean())
    between = paired_difference(students_SN, np.broadcast_to(teacher_N, students_SN.shape))
    timed = list(splits.test[options.kind][: options.rows])
    if options.kind == "image":
        timed = [decode(picture) for picture in timed]
    teacher_ms, student_ms = milliseconds([options.teacher, options.students[0]], options.kind, timed)
    found = {
        "rows": len(labels_N),
        "teacher": [teacher, *exact(int(teacher_N.sum()), len(labels_N))],
        "students": students_SN.mean(axis=1).round(4).tolist(),
        "retention": [round(1 + value / teacher, 4) for value in (between.value, between.low, between.high)],
        "verdict": verdict(between),
        "teacher_ms": round(teacher_ms, 2),
        "student_ms": round(student_ms, 2),
        "times_faster": round(teacher_ms / student_ms, 2),
        "sizes": [size(options.teacher), size(options.students[0])],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
