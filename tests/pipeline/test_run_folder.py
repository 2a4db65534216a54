import errno
import json
import os
import stat
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.damage import DOCUMENTS
from helpers.forks import Child, run

from hf_finetune import InputError, TrainingError
from hf_finetune.pipeline import run_folder
from hf_finetune.pipeline.resume import COMPARED, refuse_changes
from hf_finetune.pipeline.run_folder import finished_folder, output_folder, owned_folder, plain_disk_errors, replacing
from hf_finetune.utils import disk_errors, files
from hf_finetune.utils.files import write_json


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("file", "--output .*/file: this is a file"),
        ("file/run", "--output .*/file/run: nothing can be written to .*/file .Not a directory."),
        ("full", "--output .*/full: the folder is not empty"),
        ("/proc/run", "--output /proc/run: nothing can be written to /proc"),
    ],
)
def test_unusable_folders_are_refused(tmp_path: Path, output: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    with pytest.raises(InputError, match=message):
        output_folder("a", str(tmp_path / output), resume=False)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "full", "mine.txt"]


def test_the_folder_is_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert output_folder("my run/1", None, resume=False) == tmp_path / "runs" / "my-run-1-1"
    assert output_folder("a", "x/y/z", resume=True) == tmp_path / "x/y/z"
    assert not list(tmp_path.iterdir())


def test_only_unfinished_runs_are_resumed(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("")
    with pytest.raises(InputError, match=r"no recipe\.json, this is not the folder of a run"):
        output_folder("a", str(tmp_path), resume=True)
    (tmp_path / "recipe.json").write_text("{}")
    assert output_folder("a", str(tmp_path), resume=True) == tmp_path
    (tmp_path / "result.json").write_text('{"metrics": {}}')
    with pytest.raises(InputError, match="is finished, there is nothing to resume"):
        output_folder("a", str(tmp_path), resume=True)


def test_all_processes_take_up_the_same_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main one decides, here another one, which does not see its result yet."""
    assert finished_folder("a", str(tmp_path)) is None

    def broadcast(decided: list[Path | None]) -> None:
        assert decided == [None]
        decided[0] = tmp_path

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr(run_folder, "broadcast_object_list", broadcast)
    assert finished_folder("a", str(tmp_path)) == tmp_path


def test_fields_that_may_differ_in_a_resumed_run(tmp_path: Path) -> None:
    """A teacher may have moved, as its weights are compared; its precision may not change."""
    others = ("fingerprint", "weights", "teacher", "processes", "mixed_precision")

    def record(**objective: str) -> dict:
        return {
            "recipe": {"objective": objective, "hub": {"repo_id": objective["teacher"]}},
            **dict.fromkeys(others, "x"),
            "files": {"the checkpoint": {"config.json": "1", "vocab.txt": "2"}, "teacher 1": {"config.json": "3"}},
        }

    (tmp_path / "recipe.json").write_text(json.dumps(record(teacher="here", teacher_precision="float32")))
    refuse_changes(tmp_path, record(teacher="there", teacher_precision="float32"))
    compressed = record(teacher="here", teacher_precision="float32")
    compressed["recipe"] |= {"compress": {"type": "Compress", "max_loss": 1.0}}
    refuse_changes(tmp_path, compressed)
    compressed["recipe"] |= {"compressed_rows": 5}
    with pytest.raises(InputError, match=r"compressed_rows: the run in .* has None, now it is 5"):
        refuse_changes(tmp_path, compressed)
    with pytest.raises(InputError, match=r"objective.teacher_precision: the run in .* has 'float32', now it is 'bf16'"):
        refuse_changes(tmp_path, record(teacher="here", teacher_precision="bf16"))
    for key in others:
        with pytest.raises(InputError, match=f"{COMPARED[key]}: the run in .* has 'x', now it is 'y'"):
            refuse_changes(tmp_path, {**record(teacher="here", teacher_precision="float32"), key: "y"})


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"config.json": "1", "vocab.txt": "4"}, "vocab.txt of the checkpoint has changed since the run in"),
        ({"config.json": "1"}, "vocab.txt of the checkpoint is missing since the run in"),
        (
            {"config.json": "1", "vocab.txt": "2", "added_tokens.json": "5"},
            "added_tokens.json of the checkpoint is new since the run in",
        ),
    ],
)
def test_files_of_a_checkpoint_must_stay_the_same(tmp_path: Path, now: dict[str, str], message: str) -> None:
    """Every file beside the weights counts; a run from before there were digests goes on."""
    record = {"recipe": {}, "files": {"the checkpoint": {"config.json": "1", "vocab.txt": "2"}}}
    (tmp_path / "recipe.json").write_text(json.dumps(record))
    refuse_changes(tmp_path, record)
    with pytest.raises(InputError, match=f"{message} .*; restore what it was, or start a new run"):
        refuse_changes(tmp_path, record | {"files": {"the checkpoint": now}})
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": {}}))
    refuse_changes(tmp_path, record)


KILLED = """
import os, signal, sys
from hf_finetune.pipeline.run_folder import owned_folder, replacing
from hf_finetune.utils.files import write_json

kill, moment, rename = (lambda *_: os.kill(os.getpid(), signal.SIGKILL)), sys.argv[2], os.replace
with owned_folder("a", sys.argv[1], resume=False) as folder:
    if moment == "made":
        kill()
    if moment == "recipe.json":
        os.replace = kill
    write_json(folder.path / "recipe.json", {"recipe": {}})
    (folder.path / "checkpoints").mkdir()
    if moment == "start":
        os.replace = kill
    with replacing(folder.path / "checkpoints" / "start"):
        pass
    (folder.path / "checkpoints" / "checkpoint-1").mkdir()
    os.replace = kill
    write_json(folder.path / "checkpoints" / "checkpoint-1" / "manifest.json", {})
"""


@pytest.mark.parametrize("moment", ["made", "recipe.json", "start", "checkpoint"])
def test_killed_in_the_first_writes(tmp_path: Path, moment: str) -> None:
    """The folder is resumed, without what was half-written; one in which nothing was written yet can be used anew."""
    folder = tmp_path / "run"
    assert run(KILLED, folder, moment).returncode == -9
    is_begun = moment in ("start", "checkpoint")
    assert (folder / "recipe.json").exists() == is_begun
    if is_begun:
        with pytest.raises(InputError, match="is not empty; name another one, or continue its run by --resume"):
            output_folder("a", str(folder), resume=False)
    else:
        with owned_folder("a", str(folder), resume=False):
            assert [p.name for p in folder.iterdir()] == [".lock"]
        assert not folder.exists() or not list(folder.iterdir())
    with owned_folder("a", str(folder), resume=True) as owned:
        assert owned.is_unfinished == is_begun
        assert not list(folder.rglob(".*.partial"))


def test_leftovers_of_0_1_0_and_of_safetensors_are_removed(tmp_path: Path) -> None:
    """What somebody else has put there stays, whatever its name."""
    begun = tmp_path / "begun"
    checkpoint = begun / "checkpoints" / "checkpoint-5"
    checkpoint.mkdir(parents=True)
    (begun / "recipe.json").write_text('{"recipe": {}}')
    plot = begun / "plots" / ".learning_curves.svg.01234567.partial"
    for leftover in (begun / ".recipe.json.ab_d1234", checkpoint / ".tmpQGGcPs", begun / ".model.partial" / "x", plot):
        leftover.parent.mkdir(exist_ok=True)
        leftover.write_text("")
    (begun / ".env.original").write_text("mine")
    with owned_folder("a", str(begun), resume=True):
        pass
    assert sorted(p.name for p in begun.rglob("*")) == [
        ".env.original",
        "checkpoint-5",
        "checkpoints",
        "plots",
        "recipe.json",
    ]


@pytest.mark.parametrize("content", ["", "null", "[]", "{", "{}"])
def test_a_damaged_result_is_not_a_finished_run(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str) -> None:
    (tmp_path / "recipe.json").write_text('{"recipe": {}}')
    (tmp_path / "result.json").write_text(content)
    (tmp_path / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    with caplog.at_level("WARNING"), owned_folder("a", str(tmp_path), resume=True) as folder:
        assert folder.is_unfinished
    assert "result.json: damaged, it is written again" in caplog.text
    # Without checkpoints the trained model would be lost to a new training.
    (tmp_path / "checkpoints" / "checkpoint-5").rmdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"result\.json: damaged, and no checkpoint is left to write it again"):
        output_folder("a", str(tmp_path), resume=True)


@pytest.mark.parametrize("content", ["", "null", "[]", "{}"])
def test_a_damaged_recipe_matters_once_there_are_checkpoints(tmp_path: Path, content: str) -> None:
    (tmp_path / "recipe.json").write_text(content)
    with owned_folder("a", str(tmp_path), resume=True) as folder:
        assert not folder.is_unfinished
    (tmp_path / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    with (
        pytest.raises(InputError, match=r"recipe\.json: damaged.*start the run anew"),
        owned_folder("a", str(tmp_path), resume=True),
    ):
        pass


@pytest.mark.parametrize(
    ("recipe", "checks", "stays"),
    [
        ({"train": {"keep_checkpoints": False}}, {"reload": {"ok": True}}, False),
        ({"train": {"keep_checkpoints": True}}, {"reload": {"ok": True}}, True),
        ({"train": {"keep_checkpoints": False}}, {"reload": {"ok": False}}, True),
        ({}, {}, True),
    ],
)
def test_what_a_kill_in_the_last_moments_leaves_is_removed(
    tmp_path: Path, recipe: dict, checks: dict, stays: bool
) -> None:
    """The half-removed checkpoints, and whole ones that were about to be removed."""
    write_json(tmp_path / "recipe.json", {"recipe": recipe})
    write_json(tmp_path / "result.json", {"metrics": {}, "parity": checks})
    for name in ("checkpoints/checkpoint-5", ".checkpoints.01234567.partial/checkpoint-4", "plots"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "plots" / ".rate.png.01234567.partial").touch()
    with pytest.raises(InputError, match="is finished, there is nothing to resume"):
        output_folder("a", str(tmp_path), resume=True)
    names = {"plots", "recipe.json", "result.json"} | ({"checkpoints"} if stays else set())
    assert {path.name for path in tmp_path.iterdir()} == names
    assert not list((tmp_path / "plots").iterdir())


NUMBERED = """
import sys, time
from pathlib import Path
from hf_finetune.pipeline.run_folder import owned_folder

while time.time() < float(sys.argv[1]):
    pass
with owned_folder("a", None, resume=False) as folder:
    (folder.path / "recipe.json").write_text("")
    print(folder.path.name, flush=True)
    time.sleep(0.2)
"""


def test_runs_that_start_together_have_folders_of_their_own(tmp_path: Path) -> None:
    at = str(time.time() + 0.5)
    children = [
        Child(
            NUMBERED, at, environment=dict(os.environ), cwd=tmp_path, stdout=tmp_path / n, stderr=tmp_path / f"{n}.err"
        )
        for n in "123"
    ]
    assert [child.wait() for child in children] == [0, 0, 0], (tmp_path / "1.err").read_text()
    assert sorted((tmp_path / n).read_text().strip() for n in "123") == ["a-1", "a-2", "a-3"]


def test_a_number_that_another_run_takes_meanwhile_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen while it was free, and filled before it was checked."""
    (tmp_path / "a-1").mkdir()
    (tmp_path / "a-1" / "recipe.json").write_text("{}")
    numbers = iter([tmp_path / "a-1", tmp_path / "a-2"])
    monkeypatch.setattr(run_folder, "_next_folder", lambda *_, **__: next(numbers))
    with owned_folder("a", None, resume=False) as folder:
        assert folder.path == tmp_path / "a-2"


def test_a_folder_in_which_nothing_was_written_is_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyError), owned_folder("a", str(tmp_path / "x" / "y"), resume=False):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_a_run_that_ended_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """The folder was free when the second run began, and was filled while it loaded its data."""
    folder = output_folder("a", str(tmp_path / "run"), resume=False)
    with owned_folder("a", str(folder), resume=False):
        write_json(folder / "recipe.json", {})
    with pytest.raises(InputError, match="is not empty"), owned_folder("a", str(folder), resume=False):
        pass


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002, 0o077])
def test_files_have_the_rights_that_the_umask_leaves(tmp_path: Path, umask: int) -> None:
    """safetensors writes files that only their owner reads."""
    before = os.umask(umask)
    try:
        write_json(tmp_path / "result.json", {})
        with replacing(tmp_path / "model") as folder:
            (folder / "model.safetensors").touch(0o600)
            (folder / "config.json").touch()
    finally:
        os.umask(before)
    files = [tmp_path / "result.json", *(tmp_path / "model").iterdir()]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o666 & ~umask}
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o777 & ~umask


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        # As tokenizers and safetensors raise them.
        Exception("No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos"),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
)
def test_a_full_disk_is_one_line_whatever_library_writes(tmp_path: Path, error: Exception) -> None:
    message = r"cannot be written .*; make room there, then --resume continues"
    with pytest.raises(TrainingError, match=message) as caught, plain_disk_errors(tmp_path):
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (("cache/pixels",), "{0}/cache/pixels: cannot be written (reason); check its rights"),
        (("images/one.png",), "{0}/images/one.png: cannot be read (reason); check its rights"),
        ((".x.0a1b2c3d.partial",), "{0}: cannot be written (reason); check its rights"),
        ((".x.0a1b2c3d.partial", None, "x"), "{0}/x: cannot be written (reason); check its rights"),
        ((), "{0}/run: cannot be written (reason); check its rights"),
    ],
)
def test_an_error_of_the_disk_names_the_place(
    tmp_path: Path, names: tuple[str | None, ...], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the cache and of the data lie outside the run's folder."""
    for folder in ("run", "cache", "images"):
        (tmp_path / folder).mkdir()
    (tmp_path / "images" / "one.png").write_text("")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK or Path(path).suffix != ".png")
    paths = [None if name is None else str(tmp_path / name) for name in names]
    with pytest.raises(TrainingError) as caught, plain_disk_errors(tmp_path / "run"):
        raise OSError(errno.EACCES, "reason", *paths)
    assert str(caught.value) == line.format(tmp_path) + ", then --resume continues from the last checkpoint"


def test_the_place_of_a_write_without_room_is_the_fullest_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write names no file, and a library may have written to a temporary folder or a cache."""
    full, free = Path("/dev/shm"), iter(range(10**9, 0, -1))
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(full))
    monkeypatch.setattr(
        disk_errors.shutil, "disk_usage", lambda path: SimpleNamespace(free=0 if path == full else next(free))
    )
    with pytest.raises(TrainingError, match=f"^{full}: cannot be written"), plain_disk_errors(tmp_path / "run"):
        raise OSError(errno.ENOSPC, "No space left on device")
    # On one disk others may write between two looks: it is the run's folder.
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(TrainingError, match=f"^{tmp_path}/run: cannot"), plain_disk_errors(tmp_path / "run"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failed_write_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(TrainingError, match=f"^{tmp_path}: "), plain_disk_errors(tmp_path / "run"):
        write_json(tmp_path / "a" / "result.json", {})


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(KeyError), plain_disk_errors(tmp_path):
        raise KeyError("os error")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_damaged_record_is_not_resumed(tmp_path: Path, name: str) -> None:
    (tmp_path / "recipe.json").write_bytes(DOCUMENTS[name])
    with pytest.raises(InputError, match=r"recipe\.json: .*; start the run anew in another folder$"):
        refuse_changes(tmp_path, {"recipe": {}})
