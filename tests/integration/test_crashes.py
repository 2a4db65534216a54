"""Runs killed before each of their commits are resumed to the same bits, and have a right order of durability."""

import json
import os
from pathlib import Path

import pytest
from helpers.crashes import Event
from helpers.forks import run

# In a process of its own, which forks the others.
CRASHED = """
import json, sys
from pathlib import Path
from helpers.crashes import crash, kill_points

name, which, answer = sys.argv[1], sys.argv[2], Path(sys.argv[3])
answer.write_text(json.dumps(crash(answer.parent, name, kill_points(name, which))))
"""


@pytest.mark.parametrize("name", ["plain", "pretrained", "adapter"])
def test_commits_are_whole_durable_and_survive_a_kill(tmp_path: Path, name: str) -> None:
    """A resumed run has the same weights, metrics, predictions and losses, and the same files: nothing half-written.

    One test, because one process takes all runs. HF_FINETUNE_KILLS=all: before every change, see docs/reliability.md.
    """
    answer = tmp_path / "crashes.json"
    ended = run(CRASHED, name, os.environ.get("HF_FINETUNE_KILLS", "commits"), answer)
    assert ended.returncode == 0, ended.stderr[-3000:]
    crashes = json.loads(answer.read_text())
    assert len(crashes["resumed"]) >= 4
    for event, outcome in crashes["resumed"].items():
        assert outcome == crashes["whole"], f"killed before: {event}"
    events = [Event(event["kind"], tuple(event["paths"]), tuple(event["changed"])) for event in crashes["events"]]
    assert_files_appear_and_go_away_whole(events)
    assert_files_are_on_the_disk_before_their_names(events)
    assert_the_result_comes_last(events)


def assert_files_appear_and_go_away_whole(events: list[Event]) -> None:
    """Nothing but a rename changes what has its own name."""
    assert {event.kind for event in events if event.changed} == {"rename"}
    appeared = {Path(path).parts[1] for event in events for path in event.changed}
    assert {"recipe.json", "checkpoints", "trained_on.npy", "predictions.parquet", "README.md"} < appeared


def assert_files_are_on_the_disk_before_their_names(events: list[Event]) -> None:
    """And names before the next change, so that a power failure loses nothing that a later file relies on."""
    commits = [number for number, event in enumerate(events) if event.changed]

    def last(kind: str, path: str, before: int) -> int:
        numbers = [n for n, event in enumerate(events[:before]) if event.kind == kind and event.paths == (path,)]
        return max(numbers, default=-1)

    for number, following in zip(commits, [*commits[1:], len(events)], strict=True):
        source, target = events[number].paths
        if Path(target).name.startswith("."):
            continue
        for path in events[number].changed:
            written = source + path.removeprefix(target)
            assert last("sync", written, number) > last("open", written, number), f"{written} before {target}"
            for folder in Path(written).parents:
                if folder.is_relative_to(source):
                    assert last("sync", str(folder), number) >= 0, f"{folder} before {target}"
        assert last("sync", str(Path(target).parent), following) > number, f"the name of {target}"
        # Folders that were made under their own names, and the log that belongs to a checkpoint or a result.
        for folder in Path(target).parents[:-1]:
            made = [n for n, event in enumerate(events) if event.kind == "mkdir" and event.paths == (str(folder),)]
            assert last("sync", str(folder.parent), number) > made[0], f"the name of {folder}"
        if Path(target).name == "result.json" or Path(target).name.startswith("checkpoint-"):
            log = str(Path(target).parents[-2 if Path(target).name == "result.json" else 1] / "log.jsonl")
            assert last("sync", log, number) > last("open", log, number), f"{log} before {target}"


def assert_the_result_comes_last(events: list[Event]) -> None:
    """The checkpoints lose their name after it, and nothing else gets or loses one."""
    commits = [event.paths for event in events if event.changed]
    assert commits[-2][1] == "run/result.json" and commits[-1][0] == "run/checkpoints", commits[-2:]
