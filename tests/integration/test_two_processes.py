"""Two real processes over gloo give what one process gives."""

import json
from pathlib import Path

import pytest
import torch
from helpers.ranks import run_in_two_processes
from helpers.small_runs import furthest, small_trainer, weights

FAMILIES = ("bert", "roberta", "distilbert", "modernbert", "deberta-v2", "vit", "swin", "resnet")
SCRIPT = """
import json, sys
from pathlib import Path
import torch
from helpers.small_runs import small_trainer, weights
from hf_finetune.training.checkpoints import is_whole
folder, families = Path(sys.argv[1]), sys.argv[2].split(",")
for family in families:
    for accumulation in (1, 2):
        trainer = small_trainer(folder / family, family, micro_batch=4 // accumulation, accumulation=accumulation)
        trainer.train()
        assert trainer.args.world_size == 2
        # Named when both have written, and before either goes on; the second time it replaces that of the first.
        checkpoints = folder / family / "checkpoints"
        assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-5"]
        parts = json.loads((checkpoints / "checkpoint-5" / "manifest.json").read_text())
        assert {"rng_state_0.pth", "rng_state_1.pth"} < set(parts) and is_whole(checkpoints / "checkpoint-5")
        if trainer.args.process_index == 0:
            norms = [line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line]
            losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
            torch.save(weights(trainer), folder / f"{family}-{accumulation}.pt")
            (folder / f"{family}-{accumulation}.json").write_text(json.dumps({"norms": norms, "losses": losses}))
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five steps of every family in two processes, without and with accumulation, in one launch."""
    folder = tmp_path_factory.mktemp("two")
    for family in FAMILIES:
        (folder / family).mkdir()
        # The checkpoint is made beforehand: two processes would make it twice.
        small_trainer(folder / family, family)
    run_in_two_processes(SCRIPT, folder, ",".join(FAMILIES), folder=folder)
    return folder


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_change_nothing(tmp_path: Path, two_processes: Path, family: str, accumulation: int) -> None:
    """Steps of 8 rows, five of them: one process, or two with 1 or 2 micro-batches each."""
    alone = small_trainer(two_processes / family, family)
    alone.train()
    found = json.loads((two_processes / f"{family}-{accumulation}.json").read_text())
    lines = alone.state.log_history
    assert found["norms"] == pytest.approx([line["grad_norm"] for line in lines if "grad_norm" in line], rel=1e-3)
    # The first step's gradient is exact; later ones follow from weights that Adam has moved.
    assert found["norms"][0] == pytest.approx(
        next(line["grad_norm"] for line in lines if "grad_norm" in line), rel=1e-4
    )
    together = torch.load(two_processes / f"{family}-{accumulation}.pt", weights_only=True)
    assert furthest(weights(alone), together) < 1e-3
