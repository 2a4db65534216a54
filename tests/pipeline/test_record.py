import json
from dataclasses import replace
from pathlib import Path

from hf_finetune.pipeline.record import HeadStart, RunRecord
from hf_finetune.training.precision import Kernels
from hf_finetune.training.probe import KernelChoice

RECORD = RunRecord(
    recipe={"name": "small"},
    fingerprint="rows",
    labels=("bad", "good"),
    weights="abc",
    teacher=None,
    augment_checkpoints=[],
    pretrain_fingerprint=None,
    mixed_precision="no",
    processes=1,
    versions={"torch": "2"},
    command=None,
)


def test_choices_of_the_setup_are_added_to_the_record(tmp_path: Path) -> None:
    """Choices that were not made are left out; records are immutable."""
    chosen = replace(RECORD, kernels=KernelChoice(Kernels("no", "highest", "eager", 1)), head=HeadStart(0.5, True))
    added = {"kernels": chosen.to_dict()["kernels"], "head": {"explained": 0.5, "fitted": True}}
    assert chosen.to_dict() == RECORD.to_dict() | added and not added.keys() & RECORD.to_dict().keys()
    chosen.write(tmp_path)
    stored = json.loads((tmp_path / "recipe.json").read_text())
    assert stored == json.loads(json.dumps(chosen.to_dict())) and stored["labels"] == ["bad", "good"]
