"""Messages and exit status of the command line, without training."""

import errno
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from hf_finetune import ImageData, InputError, Model, Recipe, TextData, Train, TrainingError
from hf_finetune.cli import card, doctor, main, shipped
from hf_finetune.cli import run as run_module
from hf_finetune.cli.main import main_command
from hf_finetune.cli.overrides import parse_run
from hf_finetune.cli.run import public_command
from hf_finetune.cli.run_job import RunJob, load_recipe
from hf_finetune.cli.train import TrainJob, parse_train
from hf_finetune.utils.console import say_loading
from hf_finetune.utils.plain import to_plain


def leave(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, list[str]]:
    """Run a command; return its exit status, stdout and the lines of stderr."""
    status = 0
    try:
        main_command(arguments)
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err.splitlines()


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = leave(capsys, "--help")
    assert status == 0
    assert re.findall(r"^  (\w+) +\w", out, re.M) == list(main.COMMANDS)


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


def test_list_is_wrapped_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _, out, _ = leave(capsys, "list")
    assert max(map(len, out.splitlines())) <= 80 and len(out.splitlines()) > len(shipped.names())


def test_list_shows_each_recipe_with_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = leave(capsys, "list")
    assert status == 0
    assert "quickstart  " in out and "MiniLM on BBC news" in out
    assert len(out.splitlines()) == len(shipped.names()) >= 5


def test_cp_copies_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine.py"
    assert leave(capsys, "cp", "sst2_lora", str(target))[0] == 0
    assert target.read_text() == shipped.names()["sst2_lora"].read_text()
    status, _, err = leave(capsys, "cp", "sst2_lora", str(target))
    assert status == 2 and "exists already" in err[0]
    status, _, err = leave(capsys, "cp", "sst2_lorra", str(tmp_path))
    assert status == 2 and "did you mean 'sst2_lora'" in err[0]
    assert leave(capsys, "cp", "cpu-2.yaml", str(tmp_path))[0] == 0
    assert "num_processes: 2" in (tmp_path / "cpu-2.yaml").read_text()


def test_recipes_are_found_by_folder_and_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shipped.find("text/sst2_lora") == shipped.find("sst2_lora")
    assert shipped.is_known("text/sst2_lora") and not shipped.is_known("vision/sst2_lora")
    status, _, err = leave(capsys, "cp", "vision/sst2_lora", str(tmp_path))
    assert status == 2 and "vision/sst2_lora: no recipe of this name; did you mean 'sst2_lora'?" in err[0]


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


def test_flags_take_precedence_over_yaml(tmp_path: Path) -> None:
    recipe = load_recipe("sst2_full")
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n  learning_rate: 1e-3\n  seed: 7\ndata:\n  max_length: 64\n")
    job = parse_run(RunJob(recipe), ["--config", str(file), "--seed", "9"], "x")
    assert (job.recipe.train.learning_rate, job.recipe.train.seed, job.recipe.data.max_length) == (1e-3, 9, 64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train:\n  learning_rat: 1\n", "train.learning_rat: no such field, did you mean 'learning_rate'"),
        ("train: [1\n", "--config .*mine.yaml: .*line"),
        ("optim: {optimizer: SGD}\noptim: {optimizer: Lion}\n", "--config .*mine.yaml: 'optim' stands twice .*line 2"),
        ("!!python/object/apply:os.system ['true']\n", "--config .*could not determine a constructor"),
        ("- 1\n", "--config .*: expected a mapping"),
    ],
)
def test_bad_yaml(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        parse_run(RunJob(load_recipe("sst2_full")), ["--config", str(file)], "x")
    with pytest.raises(InputError, match=r"cannot be read .No such file"):
        parse_run(RunJob(load_recipe("sst2_full")), ["--config", "nowhere.yaml"], "x")


def test_the_recipe_of_a_run_runs_again(tmp_path: Path) -> None:
    recipe = replace(load_recipe("sst2_lora"), name="mine", train=Train(learning_rate=3e-4, seed=5))
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({"recipe": to_plain(recipe), "fingerprint": "ab", "versions": {"torch": "2"}}))
    assert load_recipe(str(file)) == load_recipe(str(tmp_path)) == recipe
    assert parse_run(RunJob(load_recipe("sst2_full")), ["--config", str(file)], "x").recipe == recipe
    job = parse_train(TrainJob, ["new.csv", "--config", str(file), "--lr", "1e-5"], "hf-finetune train")
    assert (job.recipe.data.path, job.recipe.train.learning_rate, job.recipe.train.seed) == ("new.csv", 1e-5, 5)
    again = parse_train(TrainJob, ["--config", str(file)], "hf-finetune train")
    assert again.recipe == recipe and again.source == recipe.data.path
    file.write_text('{"rows": 3}')
    with pytest.raises(InputError, match=r"recipe\.json: holds no recipe; expected the recipe.json of a run$"):
        load_recipe(str(file))


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


@pytest.mark.parametrize("name", sorted(shipped.names()))
def test_every_shipped_recipe_is_valid(name: str) -> None:
    from hf_finetune.config.rules import check
    from hf_finetune.utils.plain import merge

    recipe = load_recipe(name)
    check(recipe)
    blank = Recipe(name="", data=TextData(path=""), model=Model(checkpoint=""))
    assert merge(blank, to_plain(recipe)) == recipe
    assert len(shipped.names()[name].read_text().splitlines()) <= 56


@pytest.mark.parametrize("path", sorted((shipped.folder() / "accelerate").glob("*.yaml")), ids=lambda p: p.stem)
def test_accelerate_configs_parse(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes == (2 if path.stem in ("cpu-2", "multi-gpu") else 1)
    assert config.use_cpu == path.stem.startswith("cpu")
    assert config.mixed_precision == {"bf16": "bf16", "fp16": "fp16", "multi-gpu": "bf16"}.get(path.stem, "no")


@pytest.mark.parametrize(
    ("content", "flags", "kind"),
    [
        ("data: {image: picture}", [], "ImageData"),
        ("data: {type: ImageData}", [], "ImageData"),
        ("data: {text: sentence, max_length: 32}", [], "TextData"),
        ("data: {type: TextData}", [], "TextData"),
        ("", ["--image", "picture"], "ImageData"),
        ("", ["--text=sentence"], "TextData"),
        ("", ["--data.no-decode-once"], "ImageData"),
        ("data: {decode_once: false}", [], "ImageData"),
    ],
)
def test_fields_decide_between_texts_and_images(
    tmp_path: Path, content: str, flags: list[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data are not read: they do not exist."""
    monkeypatch.setattr("hf_finetune.data.sources.sniff_kind", lambda *_, **__: pytest.fail("asked the data"))
    (tmp_path / "mine.yaml").write_text(content)
    job = parse_train(TrainJob, ["nowhere", "--config", str(tmp_path / "mine.yaml"), *flags], "hf-finetune train")
    assert type(job.recipe.data).__name__ == kind and job.recipe.data.path == "nowhere"
    assert kind == "TextData" or job.recipe.data.decode_once == ("once" not in f"{content} {flags}")


@pytest.mark.parametrize(
    ("operations", "kind", "message"),
    [
        ("[{type: Sometimes, operation: Flip}]", "image", None),
        ("[SwapWords]", "text", None),
        ("[Flip]", "text", r"^data\.augment\[0\]\.type: expected one of SwapWords, .*, got 'Flip'$"),
        ("[SwapWords]", "image", r"^data\.augment\[0\]\.type: expected one of Flip, .*, got 'SwapWords'$"),
    ],
)
@pytest.mark.parametrize("by_flag", [True, False])
def test_operations_do_not_decide_between_texts_and_images(
    tmp_path: Path, operations: str, kind: str, message: str | None, by_flag: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_finetune.data.sources.sniff_kind", lambda *_, **__: kind)
    (tmp_path / "mine.yaml").write_text("" if by_flag else f"data: {{augment: {operations}}}")
    arguments = ["data", "--config", str(tmp_path / "mine.yaml"), *(["--data.augment", operations] if by_flag else [])]
    with nullcontext() if message is None else pytest.raises(InputError, match=message):
        job = parse_train(TrainJob, arguments, "hf-finetune train")
        assert isinstance(job.recipe.data, ImageData) == (kind == "image") and job.recipe.data.augment


@pytest.mark.parametrize("flags", [["--max-length", "32"], ["--text", "text"], ["--data.encoding", "latin-1"]])
def test_image_operation_with_a_text_field_is_refused(flags: list[str]) -> None:
    with pytest.raises(InputError, match=r"^data\.augment\[0\]\.type: expected one of SwapWords, .*, got 'Rotate'$"):
        parse_train(TrainJob, ["nowhere", "--data.augment", "[Rotate]", *flags], "hf-finetune train")


def test_the_kind_of_data_is_found_in_their_encoding(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("text,label\ncafé,a\nthé,b\n".encode("cp1252"))
    job = parse_train(TrainJob, [str(tmp_path / "rows.csv"), "--data.encoding", "cp1252"], "hf-finetune train")
    assert isinstance(job.recipe.data, TextData)


def test_config_is_read_once_from_a_pipe() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        file.write("data: {text: sentence}\ntrain: {seed: 7}\n")
    try:
        job = parse_train(TrainJob, ["nowhere", "--config", f"/dev/fd/{reading}"], "hf-finetune train")
    finally:
        os.close(reading)
    assert job.recipe.train.seed == 7
