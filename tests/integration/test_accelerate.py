"""A real recipe with real weights under `accelerate launch`, on the CPU configurations that are shipped."""

import json
import os
from pathlib import Path

import pytest
from helpers import forks
from safetensors.torch import load_file

from hf_finetune.cli import shipped
from hf_finetune.training.precision import default_device, has_native_bf16

# Few and short texts: what is looked at is the launch.
FLAGS = ["--max-train-rows", "96", "--epochs", "1", "--max-length", "16", "--model.dropout", "0"]
FLAGS += ["--data.test-fraction", "0.02", "--data.validation-fraction", "0.02", "--evaluate.parity-rows", "8"]
FLAGS += ["--evaluate.resamples", "100", "--evaluate.no-plots", "--evaluate.no-baselines"]
# Accelerate's launcher, whose imports are the parent's. What it launches imports for itself.
LAUNCH = "from accelerate.commands.launch import main; main()"
WITHOUT_GATE = """
import runpy, sys
sys.path.insert(0, {helpers!r})
from helpers import gate

gate.run_here()
runpy.run_path({recipe!r}, run_name="__main__")
"""


def launch(config: str, output: Path, *, with_gate: bool = False) -> dict:
    script, accelerate = shipped.names()["quickstart"], shipped.folder() / "accelerate" / f"{config}.yaml"
    if not with_gate:
        code = WITHOUT_GATE.format(helpers=str(Path(__file__).parents[1]), recipe=str(script))
        script = output.with_suffix(".py")
        script.write_text(code)
    arguments = ["--config_file", accelerate, script, "--output", output, *FLAGS]
    answer = forks.run(LAUNCH, *arguments, environment=os.environ | {"OMP_NUM_THREADS": "1"})
    assert answer.returncode == 0, answer.stderr[-3000:]
    # Only the main process speaks.
    assert answer.stdout.count("this model") == 1
    return json.loads((output / "result.json").read_text())


def test_two_processes_end_like_one(tmp_path: Path) -> None:
    one, two = launch("cpu", tmp_path / "one"), launch("cpu-2", tmp_path / "two", with_gate=True)
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
    ours = "import sys; from hf_finetune.cli.launcher import launch; launch(sys.argv[1:], 2, mixed_precision='no')"
    code, flags = (LAUNCH, ["--cpu", "--num_processes", "2"]) if stock else (ours, [])
    answer = forks.run(code, *flags, script, answers)
    assert answer.returncode == 0, answer.stderr[-3000:]
    found = {path.stem: path.read_text() for path in answers.iterdir()}
    assert found == ({"0": "1"} if stock else {"0": "2", "1": "2"})
