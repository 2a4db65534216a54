"""Messages and exit status of the command line, without training."""

import errno
import gc
import logging
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.command_line import leave

from hf_finetune import InputError, TrainingError
from hf_finetune.cli import card, doctor, main
from hf_finetune.cli import run as run_module
from hf_finetune.cli.run import public_command
from hf_finetune.utils.console import say_loading


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = leave(capsys, "--help")
    assert status == 0
    assert re.findall(r"^  (\w+) +\w", out, re.M) == list(main.COMMANDS)


def test_a_command_searches_for_garbage_rarely(capsys: pytest.CaptureFixture[str]) -> None:
    before = gc.get_threshold()
    try:
        gc.set_threshold(700, *before[1:])
        leave(capsys, "--help")
        assert gc.isenabled() and gc.get_threshold() == (main.COLLECTED_EVERY, *before[1:])
    finally:
        gc.set_threshold(*before)


def test_help_and_version_as_other_programs_spell_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(capsys, "help") == leave(capsys, "--help")
    assert leave(capsys, "help", "cp") == leave(capsys, "cp", "--help")
    assert leave(capsys, "-V") == leave(capsys, "--version") and main.COMMANDS.keys().isdisjoint({"help"})


@pytest.mark.parametrize("command", [*main.COMMANDS, "run sst2_full"])
def test_help_of_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = leave(capsys, *command.split(), "--help")
    assert status == 0 and err == []
    assert out.startswith(f"usage: hf-finetune {command}") and len(out.splitlines()) > 2


def test_an_error_comes_before_the_messages_of_the_loaders(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loader, run = logging.getLogger("hf_finetune"), logging.getLogger("hf_finetune.run")

    def fail(_: Sequence[str]) -> None:
        loader.warning("is it the label?")
        raise InputError("rows.csv: bad")

    def work(_: Sequence[str]) -> None:
        loader.warning("is it the label?")
        run.info("training")
        loader.warning("damaged")
        raise TrainingError("the loss is not a number")

    monkeypatch.setattr(doctor, "doctor", fail)
    monkeypatch.setattr(card, "card", work)
    assert leave(capsys, "doctor") == (2, "", ["rows.csv: bad"])
    status, _, err = leave(capsys, "card")
    assert (status, err) == (1, ["is it the label?", "training", "damaged", "the loss is not a number"])


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), 2, "/a/b: cannot be .* .Permission denied.; .*"),
        (
            OSError(errno.EROFS, "Read-only", "/a/.b.partial", None, "/a/b"),
            2,
            "/a/b: cannot be written .Read-only.; .*",
        ),
        (OSError(errno.EIO, "Input/output error", "/a/b"), 1, "/a/b: cannot be read or written .*; check the disk"),
        (OSError(errno.ENOSPC, "No space left"), 1, "/.*: cannot be written .No space left.; make room there"),
    ],
)
def test_an_error_of_the_disk_is_one_line(
    error: OSError, status: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In whatever command, wherever the file lies."""

    def fail(_: Sequence[str]) -> None:
        raise error

    monkeypatch.setattr(card, "card", fail)
    left, out, err = leave(capsys, "card")
    assert (left, out.strip(), len(err)) == (status, "", 1)
    assert re.fullmatch(line, err[0])


def test_output_that_cannot_be_written_is_one_line() -> None:
    """On a full disk, whether it fits into the buffer, and is written at the end, or not; and where nobody reads it."""
    short, long = ([sys.executable, "-m", "hf_finetune", command] for command in ("list", "schema"))
    for command in (short, long):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (1, "stdout: cannot be written (No space left on device)\n")
    with subprocess.Popen(short, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as piped:
        piped.stdout.close()
        assert (piped.stderr.read(), piped.wait()) == ("", 1)
    closed = subprocess.run(f"{shlex.join(short)} >&-", shell=True, stderr=subprocess.PIPE, text=True)
    assert (closed.returncode, closed.stderr) == (0, "")


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: Sequence[str]) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset")

    monkeypatch.setattr(card, "card", fail)
    with pytest.raises(ConnectionResetError):
        leave(capsys, "card")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_before_there_is_anything_to_save(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    monkeypatch.setattr(card, "card", lambda _: signal.raise_signal(number))
    status, out, err = leave(capsys, "card")
    assert (status, out, err) == (3, "", ["stopped by a signal; nothing was saved"])
    assert signal.getsignal(number) == before


def test_the_usage_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = leave(capsys, "--help")
    assert status == 0 and max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (["trian"], r"hf-finetune trian: no such command, did you mean 'train'\?; one of"),
        (["hlep"], r"hf-finetune hlep: no such command, did you mean 'help'\?; one of"),
        (["run"], "hf-finetune run: missing RECIPE$"),
        (["run", "--config", "f.yaml"], "hf-finetune run: missing RECIPE$"),
        (["run", "no_such"], "no_such: no recipe of this name"),
        (
            ["plan", "text/sst2_lora", "--plot-schedule", "x.png"],
            "--plot-schedule x.png: expected a name that ends in .svg",
        ),
        (
            ["run", "sst2_full", "--train.learning-rat", "1"],
            "--train.learning-rat: no such flag, did you mean '--train.learning-rate'",
        ),
        (["run", "sst2_full", "--epochs", "x"], "--epochs x: expected a number above 0 and at most 1000000$"),
        (
            ["run", "sst2_full", "--method", "lorra"],
            "--method lorra: expected one of full, lora, top, head, classical, auto$",
        ),
        (["predict", "m", "a.csv", "b.csv"], "a.csv: expected one DATA, or image files"),
        (["predict", "m", "a.csv", "--text", "a", "--text", "b"], "--text b: with DATA it names the column, once"),
        (["predict", "m", "--text", "a", "--text-pair", "b", "--text-pair", "c"], "--text-pair: expected one for each"),
        (["predict", "m", "--text", "a", "--digests"], "--digests: expected --output"),
        (["predict", "m", "d", "--output", "x.txt"], "--output x.txt: expected a name ending in .csv"),
        # Before the model, the data and the recipe are looked at.
        (["predict", "m", "d", "--output", "/proc/x.csv"], "--output /proc/x.csv: nothing can be written to /proc "),
        (
            ["predict", "m", "d", "--output", f"{'x' * 300}.csv"],
            "--output x+.csv: cannot be written .File name too long",
        ),
        (
            ["predict", "m", "d", "--output", f"{__file__}/x.csv"],
            "--output .*/x.csv: nothing can be written to .*test_main.py .Not",
        ),
        (
            ["plan", "sst2_lora", "--plot-schedule", "/proc/x.svg"],
            "--plot-schedule /proc/x.svg: nothing can be written",
        ),
        (["cp", "sst2_lora", "/proc/x.py"], "DEST /proc/x.py: nothing can be written to /proc "),
        (["cp", "sst2_lora", "x" * 300], "x+: cannot be used .File name too long.; name another path"),
        (["card", "nowhere"], "nowhere: no recipe.json"),
        (["card", __file__], ".*test_main.py: no recipe.json; expected the folder of a finished run"),
        (["cp", "sst2_lora"], "hf-finetune cp: missing DEST"),
        (["cp", "sst2_lora", "nowhere/x.py"], "nowhere: no such folder"),
        (["list", "x"], "x: unexpected; `hf-finetune list --help` lists what it takes"),
        (["plan"], r"hf-finetune plan: missing \(train DATA \| run RECIPE \| DATA \| RECIPE\)$"),
        (["search"], "hf-finetune search: missing augmentation DATA$"),
        (["train", "d.csv", "--data.path", "x"], "--data.path x: hf-finetune train takes the data as DATA"),
        (["train", "d.csv", "--config", "."], "--config .: cannot be read"),
        # A flag is named as it was typed.
        (["train", "d.csv", "--lr", "x"], "--lr x: expected a number above 0$"),
        (["train", "d.csv", "--learning_rate=-1"], "--learning_rate -1: expected a number above 0$"),
        (["train", "d.csv", "--epoch", "3"], "--epoch: no such flag, did you mean '--epochs'?"),
        (["train", "d.csv", "--epoch=3"], "--epoch: no such flag, did you mean '--epochs'?"),
        (["train", "d.csv", "--weight_decai", "0"], "--weight_decai: no such flag, did you mean '--weight-decay'?"),
        (
            ["train", "d.csv", "--epochs", "--lr", "1"],
            "--epochs: expected a value, a number above 0 and at most 1000000$",
        ),
        (["train", "d.csv", "--batching.unpadded", "yes"], "--batching.unpadded yes: expected True or False$"),
        (["train", "d.csv", "--milestones", "0.5", "x"], "--milestones 0.5 x: expected rising numbers above 0$"),
        (["train", "d.csv", "--milestones", "0.5", "0.2"], "--milestones 0.5 0.2: expected rising numbers above 0$"),
        (["train", "d.csv", "--label-names"], "--label-names: expected a value, NAME,NAME,...$"),
        (["train", "d.csv", "--augment", "[SwapWords]", "--data.augment.0.p=3"], "--data.augment.0.p 3: .*, 0 to 1$"),
        (["train", "d.csv", "e.csv", "--text", "a"], "e.csv: unexpected; `hf-finetune train --help` lists"),
        (["train", "--text", "a"], "hf-finetune train: missing DATA$"),
        # The flag of a section that holds nothing, or another config.
        (["compress", "runs/r", "--latency", "5"], "^--latency 5: expected a time such as 5ms$"),
        (["compress", "runs/r", "--max-loss=0"], "^--max-loss 0: expected a number above 0$"),
        (["export", "runs/r", "--rows", "0"], "^--rows 0: expected a whole number, at least 1$"),
        (["export", "runs/r", "--max-loss=-1"], "^--max-loss -1: expected a number above 0$"),
        (["export", "runs/r", "--quantization.rows", "0"], "^--quantization.rows 0: expected .*, at least 1$"),
        (["export", "runs/r", "--quantization.smooth", "1"], "^--quantization.smooth 1: .* above 0 and below 1$"),
        (["export", "runs/r", "--quantization.float-layers", "-1"], "^--quantization.float-layers -1: .*, 0 or more$"),
        (["train", "d.csv", "--compress.max-loss", "1"], "--compress.max-loss: a field of Compress; add --compress C"),
        (["train", "d.csv", "--max-loss=1"], "--max-loss: a field of Compress; add --compress Compress$"),
        (
            ["train", "d.csv", "--objective.loss.gamma", "1"],
            "--objective.loss.gamma: a field of .*Focal.*; add --objective.loss [A-Z][A-Za-z]+$",
        ),
        (["train", "d.csv", "-x", "3"], "-x: no such flag; `hf-finetune train --help` lists them$"),
        (["predict", "m", "d", "--data.limits.classes", "0"], "--data.limits.classes 0: .*, at least 1$"),
        (
            ["search", "augmentation", "d.csv", "--text", "t", "--buget=5m"],
            "--buget: no such flag, did you mean '--budget'?",
        ),
        (
            ["train", "d.csv", "--method", "lorra"],
            "--method lorra: expected one of full, lora, top, head, classical, auto$",
        ),
        (["serve", "runs/r", "--max-batch", "0"], "^--max-batch 0: expected a whole number, at least 1$"),
        (["serve", "runs/r", "--workers", "0"], "^--workers 0: expected a whole number, at least 1$"),
        (["serve", "runs/r", "--port", "80000"], "^--port 80000: expected a whole number, 0 to 65535$"),
        (["run", "sst2_full", "--num-processes", "0"], "--num-processes 0: expected at least 1"),
    ],
)
def test_bad_usage_is_one_line_first(
    arguments: list[str],
    first: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = leave(capsys, *arguments)
    assert status == 2 and out == ""
    assert re.match(first, err[0]), err
    assert len(err) <= 13
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_has_a_first_line_at_once(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    monkeypatch.setattr("sys.argv", ["hf-finetune"])
    monkeypatch.setenv("TERM", "xterm")
    say_loading.cache_clear()
    for _ in range(2):
        with run_module.importing():
            pass
    say_loading.cache_clear()
    lines = capsys.readouterr().err.splitlines()
    assert any("import the libraries" in line for line in lines) == is_terminal
    assert bool(lines) == is_terminal and all(re.match(r"hf-finetune [\d.]+\w*: loading ...$", lines[0]) for _ in lines)
    assert sum("loading" in line for line in lines) <= 1


def test_public_command_has_no_local_path(tmp_path: Path) -> None:
    data = tmp_path / "movie"
    data.mkdir()
    command = [
        "hf-finetune",
        "train",
        str(data),
        f"--model={data}",
        "--output",
        str(tmp_path),
        "--push=me/x",
        "--resume",
    ]
    assert public_command([*command, "--epochs", "2"]) == "hf-finetune train movie --model=movie --epochs 2"
    assert public_command(["hf-finetune", "train", "me/x", "--output_dir", "secret"]) == "hf-finetune train me/x"
