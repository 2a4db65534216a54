"""A real recipe with real weights under `accelerate launch`, on the CPU configurations that are shipped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hf_finetune import shipped
from hf_finetune.training.precision import default_device, has_native_bf16

# Few and short texts: what is looked at is the launch.
FLAGS = ["--max-train-rows", "96", "--max-length", "16", "--model.dropout", "0", "--evaluate.parity-rows", "8"]


def launch(config: str, output: Path) -> dict:
    recipe = shipped.names()["quickstart"]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(shipped.folder() / "accelerate" / f"{config}.yaml"), str(recipe), "--output", str(output), *FLAGS]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
    assert answer.returncode == 0, answer.stderr[-3000:]
    # Only the main process speaks.
    assert answer.stdout.count("this model") == 1
    return json.loads((output / "result.json").read_text())


def test_two_processes_end_like_one(tmp_path: Path) -> None:
    one, two = launch("cpu", tmp_path / "one"), launch("cpu-2", tmp_path / "two")
    assert (one["environment"]["processes"], two["environment"]["processes"]) == (1, 2)
    assert one["environment"]["mixed_precision"] == two["environment"]["mixed_precision"] == "no"
    assert one["steps"] == two["steps"] == 3
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two")]
    assert max(float((weights[0][n] - weights[1][n]).abs().max()) for n in weights[0]) < 1e-3


@pytest.mark.skipif(not has_native_bf16(default_device()), reason="this CPU does not multiply bfloat16")
def test_bf16(tmp_path: Path) -> None:
    assert launch("bf16", tmp_path / "run")["environment"]["mixed_precision"] == "bf16"
