import pytest

from hf_finetune.errors import InputError, TrainingError
from hf_finetune.utils import exit_status


@pytest.mark.parametrize(
    ("rank", "error", "status", "done"),
    [
        ("0", InputError("bad"), 2, ["bad\n"]),
        # It waits for the main process to report, and reports itself if it is not ended meanwhile.
        ("1", InputError("bad"), 2, ["waited", "bad\n"]),
        ("1", TrainingError("bad"), 1, [""]),
    ],
)
def test_the_main_process_reports_first(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: str,
    error: Exception,
    status: int,
    done: list[str],
) -> None:
    monkeypatch.setenv("RANK", rank)
    seen: list[str] = []

    def waited(seconds: float) -> None:
        assert seconds > 0 and capsys.readouterr().err == ""
        seen.append("waited")

    monkeypatch.setattr(exit_status.time, "sleep", waited)
    with pytest.raises(SystemExit) as left, exit_status.exit_status():
        raise error
    assert left.value.code == status
    assert [*seen, capsys.readouterr().err] == done
