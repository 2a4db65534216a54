"""A real recipe with real weights under `accelerate launch`, on the CPU configurations that are shipped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hf_finetune.cli import shipped
from hf_finetune.training.precision import default_device, has_native_bf16

# Few and short texts: what is looked at is the launch.
FLAGS = ["--max-train-rows", "96", "--epochs", "1", "--max-length", "16", "--model.dropout", "0"]
FLAGS += ["--evaluate.parity-rows", "8"]


def launch(config: str, output: Path) -> dict:
    recipe = shipped.names()["quickstart"]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(shipped.folder() / "accelerate" / f"{config}.yaml"), str(recipe), "--output", str(output), *FLAGS]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
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


@pytest.mark.parametrize("stock", [True, False], ids=["stock", "ours"])
def test_two_processes_on_a_cpu(tmp_path: Path, stock: bool) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one and says nothing; our launcher starts two."""
    script = tmp_path / "who.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "rank, world = os.environ.get('RANK', '0'), os.environ.get('WORLD_SIZE', '1')\n"
        "(pathlib.Path(sys.argv[1]) / f'{rank}.txt').write_text(world)\n"
    )
    answers = tmp_path / "answers"
    answers.mkdir()
    if stock:
        command = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", str(script), str(answers)]
    else:
        ours = "import sys; from hf_finetune.cli.launcher import launch; launch(sys.argv[1:], 2, mixed_precision='no')"
        command = ["-c", ours, str(script), str(answers)]
    answer = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=1800)
    assert answer.returncode == 0, answer.stderr[-3000:]
    found = {path.stem: path.read_text() for path in answers.iterdir()}
    assert found == ({"0": "1"} if stock else {"0": "2", "1": "2"})
