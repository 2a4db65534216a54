import json
from pathlib import Path

import pytest

from hf_finetune import InputError
from hf_finetune.pipeline.resume import refuse_changes
from hf_finetune.pipeline.run_folder import output_folder


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
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(InputError, match="is finished, there is nothing to resume"):
        output_folder("a", str(tmp_path), resume=True)


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
    with pytest.raises(InputError, match=r"objective.teacher_precision: the run in .* has 'float32', now it is 'bf16'"):
        refuse_changes(tmp_path, record(teacher="here", teacher_precision="bf16"))
    with pytest.raises(InputError, match=r"weights of the teacher: the run in .* has 'x', now it is 'y'"):
        refuse_changes(tmp_path, {**record(teacher="here", teacher_precision="float32"), "teacher": "y"})


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
