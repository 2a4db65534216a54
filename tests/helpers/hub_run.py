"""A finished run's folder, made by hand, for the tests of hub."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from hf_finetune import Hub, Model, Recipe, TextData
from hf_finetune.hub.card import render_card
from hf_finetune.hub.run_facts import RunFacts
from hf_finetune.utils.plain import to_plain

RECIPE = Recipe(
    name="movie-full",
    data=TextData(path="/home/me/data/movie", license="cc-by-4.0"),
    model=Model(checkpoint="/home/me/models/minilm", base_model="sentence-transformers/all-MiniLM-L6-v2"),
    hub=Hub(language="en", license="apache-2.0"),
)


def interval(value: float, n: int = 200, half: float = 0.03) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half, "n": n}


RESULT: dict[str, Any] = {
    "schema": 1,
    "name": "movie-full",
    "task": "text-classification",
    "problem_type": "single_label_classification",
    "checkpoint": "/home/me/models/minilm",
    "base_model": "sentence-transformers/all-MiniLM-L6-v2",
    "method": "full",
    "seed": 0,
    "labels": ["negative", "positive"],
    "rows": {"train": 1600, "validation": 100, "test": 200},
    "metrics": {
        "validation": {"accuracy": interval(0.85, 100), "macro_f1": interval(0.84, 100), "ece": interval(0.05, 100)},
        "test": {"accuracy": interval(0.8461, 200), "macro_f1": interval(0.83, 200), "ece": interval(0.04, 200)},
    },
    "baselines": {
        "majority": {"name": "majority", "accuracy": interval(0.5)},
        "linear": {"name": "tfidf+logistic", "accuracy": interval(0.74), "macro_f1": interval(0.73)},
    },
    "calibration": {
        "split": "test",
        "temperature": 1.25,
        "bins": [{"low": 0.5, "high": 0.6, "confidence": 0.55, "accuracy": 0.5, "count": 1234}],
    },
    "parity": {
        "reload": {"max_abs_difference": 1.2e-6, "tolerance": 1e-4, "rows": 64, "ok": True},
        "pipeline": {"labels_agree": 16, "rows": 16, "ok": True},
    },
    "standalone": True,
    "data": {
        "path_name": "movie",
        "fingerprint": "ab" * 32,
        "columns": {"text": "sentence", "label": "label"},
        "duplicates": {"validation": 0, "test": 3},
        "truncated_share": 0.0125,
        "license": "cc-by-4.0",
        "notes": ["validation: 100 rows carved from train", "'/home/me/data/movie/notes.txt' is no split: ignored"],
    },
    "notes": [],
    "learning_rate": 8e-5,
    "steps": 150,
    "parameters": {"trained": 22713986, "total": 22713986},
    "time": {"total_s": 88.2, "train_s": 70.0},
    "throughput": {"train_rows_per_s": 312.7, "predict_rows_per_s": 900.4, "flop_utilisation": None},
    "memory": {"peak_rss_mb": 1650.2},
    "environment": {
        "versions": {"python": "3.11.9", "hf_finetune": "0.1.0"},
        "commit": "0123abc",
        "cpu": "a processor",
        "cores": 2,
        "processes": 1,
    },
    "command": "hf-finetune train /home/me/data/movie --model /home/me/models/minilm",
}


def example_result() -> dict[str, Any]:
    """One to change."""
    return copy.deepcopy(RESULT)


def write_run(
    folder: Path, *, recipe: Recipe = RECIPE, result: dict[str, Any] | None = None, adapter: bool = True
) -> Path:
    """The folder as a run leaves it, with weights that load nowhere."""
    result = result or example_result()
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text('{"model_type": "bert"}')
    (folder / "model" / "tokenizer.json").write_text("{}")
    weights = {"w": np.arange(4000, dtype=np.float32)}
    save_file(weights, folder / "model" / "model.safetensors", metadata={"format": "pt"})
    if adapter:
        (folder / "adapter").mkdir()
        config = {"peft_type": "LORA", "base_model_name_or_path": "/home/me/models/minilm", "r": 8}
        (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
        (folder / "adapter" / "README.md").write_text("base_model: /home/me/models/minilm")
        save_file(weights, folder / "adapter" / "adapter_model.safetensors")
    (folder / "README.md").write_text(render_card(RunFacts(recipe, result)))
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "recipe.json").write_text(json.dumps({"recipe": to_plain(recipe), "labels": result["labels"]}))
    (folder / "predictions.parquet").write_bytes(b"PAR1 predictions PAR1")
    (folder / "log.jsonl").write_text("{}\n")
    (folder / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    (folder / "checkpoints" / "checkpoint-1" / "optimizer.pt").write_bytes(b"\x80\x02}")
    return folder
