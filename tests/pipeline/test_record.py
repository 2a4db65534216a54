import json
from dataclasses import replace
from pathlib import Path

import pytest

from hf_finetune import InputError
from hf_finetune.pipeline.record import HeadStart, RunRecord
from hf_finetune.pipeline.resume import resume_record
from hf_finetune.training.precision import Kernels
from hf_finetune.training.probe import KernelChoice
from hf_finetune.utils import environment

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
    files={"the checkpoint": {"config.json": "1"}},
)


def test_choices_of_the_setup_are_added_to_the_record(tmp_path: Path) -> None:
    """Choices that were not made are left out; records are immutable."""
    chosen = replace(RECORD, kernels=KernelChoice(Kernels("no", "highest", "eager", 1)), head=HeadStart(0.5, True))
    added = {"kernels": chosen.to_dict()["kernels"], "head": {"explained": 0.5, "fitted": True}}
    assert chosen.to_dict() == RECORD.to_dict() | added and not added.keys() & RECORD.to_dict().keys()
    chosen.write(tmp_path)
    stored = json.loads((tmp_path / "recipe.json").read_text())
    assert stored == json.loads(json.dumps(chosen.to_dict())) and stored["labels"] == ["bad", "good"]


@pytest.mark.parametrize("package", ["hf_finetune", "torch"])
def test_a_run_of_another_version_is_not_resumed(tmp_path: Path, package: str) -> None:
    earlier = RECORD.to_dict() | {"versions": {**environment.versions(), package: "0.0.1"}}
    (tmp_path / "recipe.json").write_text(json.dumps(earlier))
    now = replace(RECORD, versions=environment.versions())
    with pytest.raises(InputError, match=f"{package} 0.0.1 began this run, now it is .*; pip install {package}==0.0.1"):
        resume_record(now, None, tmp_path)  # type: ignore[arg-type]  (the run is not read)
