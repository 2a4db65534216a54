"""Commands in this process."""

import pytest

from hf_finetune.cli.main import main_command


def leave(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, list[str]]:
    """Run a command; return its exit status, stdout and the lines of stderr."""
    status = 0
    try:
        main_command(arguments)
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err.splitlines()
