"""What the launcher makes of the ends of its processes."""

import pytest
from accelerate.commands import launch as accelerate_launch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from hf_finetune.errors import TrainingError
from hf_finetune.launcher import launch


def end_with(monkeypatch: pytest.MonkeyPatch, exitcode: int) -> None:
    def fail(_: object) -> None:
        failure = ProcessFailure(local_rank=1, pid=1, exitcode=exitcode, error_file="")
        raise ChildFailedError("hf_finetune", {1: failure})

    monkeypatch.setattr(accelerate_launch, "launch_command", fail)


@pytest.mark.parametrize("status", [1, 2, 3, 4])
def test_status_of_the_first_failure_is_passed_on(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    end_with(monkeypatch, status)
    with pytest.raises(SystemExit) as stopped:
        launch(["hf-finetune", "train"], 2, mixed_precision="no")
    assert stopped.value.code == status


def test_killed_process_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory, for example."""
    end_with(monkeypatch, -9)
    with pytest.raises(TrainingError, match="killed by SIGKILL; --resume"):
        launch(["hf-finetune", "train"], 2, mixed_precision="no")
