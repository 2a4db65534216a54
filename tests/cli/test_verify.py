"""A run whose files changed after it finished: no command uses it, and each says which file it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.saved_runs import edit_config, edit_weights, saved_run
from huggingface_hub import constants

from hf_finetune.cli.main import main_command

WEIGHTS = "model/model.safetensors"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run, beside rows to classify."""
    monkeypatch.chdir(tmp_path)
    # A push is refused before it contacts the Hub.
    monkeypatch.setenv("HF_TOKEN", "a_token")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    rows = "".join(
        f"a {word} film {i},{label}\n" for i in range(8) for word, label in (("good", "positive"), ("bad", "negative"))
    )
    Path("rows.csv").write_text(f"text,label\n{rows}")
    return Path(shutil.copytree(finished, tmp_path / "run"))


def flip_bit(run: Path) -> None:
    content = bytearray((run / WEIGHTS).read_bytes())
    content[-9] ^= 1
    (run / WEIGHTS).write_bytes(content)


def zero_half(run: Path) -> None:
    size = (run / WEIGHTS).stat().st_size
    (run / WEIGHTS).write_bytes((run / WEIGHTS).read_bytes()[: size // 2].ljust(size, b"\0"))


DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "flipped bit": (flip_bit, WEIGHTS, "changed"),
    "zeroed half": (zero_half, WEIGHTS, "changed"),
    "fewer layers": (lambda run: edit_config(run, num_hidden_layers=1), "model/config.json", "changed"),
    "swapped classes": (
        lambda run: edit_config(run, id2label={"0": "positive", "1": "negative"}),
        "model/config.json",
        "changed",
    ),
    "altered weights": (lambda run: edit_weights(run, "classifier.weight", 0.5), WEIGHTS, "changed"),
    "NaN head": (lambda run: edit_weights(run, "classifier.weight", float("nan")), WEIGHTS, "changed"),
    "tokenizer": (
        lambda run: (run / "model/tokenizer.json").write_text("{}"),
        "model/tokenizer.json",
        "changed",
    ),
    "missing": (lambda run: (run / "model/tokenizer_config.json").unlink(), "model/tokenizer_config.json", "missing"),
    "no model": (lambda run: shutil.rmtree(run / "model"), "model/config.json", "missing"),
    "added": (lambda run: (run / "model/added_tokens.json").write_text("{}"), "model/added_tokens.json", "added"),
    "secret": (lambda run: (run / "model/id_rsa").write_text("x"), "model/id_rsa", "added"),
    "nested": (
        lambda run: shutil.copytree(run / "checkpoints", run / "model/old"),
        "model/old/checkpoint-1/optimizer.pt",
        "added",
    ),
    "beside": (lambda run: shutil.copy(run / "model/config.json", run), "config.json", "added"),
    "adapter": (lambda run: shutil.copytree(run / "model", run / "adapter"), "adapter/config.json", "added"),
}
COMMANDS = {
    "predict": "predict run rows.csv --output p.csv --overwrite",
    "evaluate": "evaluate run rows.csv --text text --label label",
    "card": "card run",
    "push": "push run me/movie",
    "teacher": "train rows.csv --model ../checkpoint --teacher run --max-length 32 --output out",
    "start": "train rows.csv --model run --max-length 32 --output out",
    "model": "predict run/model rows.csv --output p.csv --overwrite",
}


def leave(capsys: pytest.CaptureFixture[str], command: str) -> tuple[int, str, list[str]]:
    status = 0
    try:
        main_command(command.split())
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err.splitlines()


# Every command looks at every file; the other damages are those of the layout.
BY_EVERY_COMMAND = list(DAMAGES)[:6]
CASES = [
    (damage, command)
    for damage in DAMAGES
    for command in COMMANDS
    if damage in BY_EVERY_COMMAND or command in ("predict", "push")
]


@pytest.mark.parametrize(("damage", "command"), CASES)
def test_changed_files_are_refused(
    damage: str, command: str, run: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, file, state = DAMAGES[damage]
    spoil(run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    arguments = COMMANDS[command].replace("../checkpoint", str(finished.parent / "checkpoint"))
    status, out, err = leave(capsys, arguments)
    assert (status, out) == (4, ""), err
    line = "\n".join(err)
    shown = file.removeprefix("model/") if damage == "no model" else file
    said = {"changed": "another SHA-256", "missing": "missing", "added": "not listed in result.json"}[state]
    assert len(err) == 1 and f"run/{shown}: " in line and said in line and "; " in line
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    assert not Path("p.csv").exists() and not Path("out").exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_lists_every_file(damage: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = leave(capsys, "verify run")
    assert (status, err) == (0, [])
    assert {line.split()[0] for line in out.splitlines()} == {"ok"} and f"ok       {WEIGHTS}" in out.splitlines()
    spoil, file, state = DAMAGES[damage]
    spoil(run)
    status, out, err = leave(capsys, "verify run --json")
    report = json.loads(out)
    assert status == 4 and len(err) == 1
    assert (report["ok"], report["artifacts"][file]) == (False, state)
    assert state in leave(capsys, "verify run")[1]


def test_an_intact_run_is_used(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "model" / ".DS_Store").write_text("x")
    (run / "notes.txt").write_text("mine")
    for command in ("predict", "evaluate", "card", "model"):
        assert leave(capsys, COMMANDS[command])[0] == 0, command


def test_a_changed_model_is_used_outside_of_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_config(run, id2label={"0": "no", "1": "yes"})
    shutil.move(run / "model", "mine")
    assert leave(capsys, "predict mine rows.csv --output p.csv")[0] == 0


def test_a_run_from_before_is_used_with_one_warning(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads((run / "result.json").read_text())
    del result["artifacts"]
    (run / "result.json").write_text(json.dumps(result))
    status, _, err = leave(capsys, COMMANDS["predict"])
    assert status == 0 and len([line for line in err if "earlier version" in line]) == 1
    status, out, err = leave(capsys, "verify run")
    assert (status, out) == (4, "") and "nothing can be verified" in err[0]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "not valid JSON"),
        ('{"schema": 1', "not valid JSON"),
        ("null", "got None"),
        ("[]", r"got \[\]"),
        ("{}", "got {}"),
        ('{"schema": 1, "artifacts": {"model/../../x": "' + "0" * 64 + '"}}', "artifacts: expected"),
        ('{"schema": 1, "artifacts": {"/etc/passwd": "' + "0" * 64 + '"}}', "artifacts: expected"),
        ('{"schema": 1, "artifacts": {"model/config.json": 1}}', "artifacts: expected"),
        ('{"schema": 1, "artifacts": []}', "artifacts: expected"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "card", "start", "verify"])
def test_a_damaged_result_is_one_line(
    content: str, fault: str, command: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "result.json").write_text(content)
    status, out, err = leave(capsys, COMMANDS.get(command, "verify run"))
    assert (status, out, len(err)) == (2, "", 1)
    assert "result.json" in err[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_logits_that_are_no_numbers_are_refused(
    command: str, value: float, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of a model without a manifest."""
    edit_weights(run, "classifier.bias", value)
    shutil.move(run / "model", "mine")
    status, out, err = leave(capsys, COMMANDS[command].replace("run", "mine", 1))
    assert (status, out, len(err)) == (2, "", 1)
    assert err[0].startswith("mine: its logits of row 0 counted from 0 are not finite (")
    assert not Path("p.csv").exists()


def test_a_run_may_have_the_name_of_an_artifact(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside a recipe.json of the user."""
    shutil.copy(run.rename("model") / "recipe.json", "recipe.json")
    assert leave(capsys, "verify model")[0] == 0
    flip_bit(Path("model"))
    assert leave(capsys, "predict model rows.csv --output p.csv")[0] == 4


def test_what_is_no_run_cannot_be_verified(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "result.json").unlink()
    status, _, err = leave(capsys, COMMANDS["predict"])
    assert status == 0 and any("not finished" in line for line in err)
    status, _, err = leave(capsys, "verify run")
    assert status == 2 and "no result.json" in err[0]
