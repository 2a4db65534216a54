"""Runs killed before each of their commits are resumed to the same bits, and have a right order of durability."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from helpers.crashes import Event
from helpers.forks import run

NAMES = ("plain", "pretrained", "adapter")
# In a process of its own, which forks the others.
CRASHED = """
import json, sys
from pathlib import Path
from helpers.crashes import crash, kill_points

name, number, answer = sys.argv[1], sys.argv[2], Path(sys.argv[3])
answer.write_text(json.dumps(crash(answer.parent, name, kill_points(name, number))))
"""


@pytest.fixture(scope="module", params=NAMES)
def crashes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """HF_FINETUNE_KILLS=all: killed before every event, see docs/reliability.md."""
    answer = tmp_path_factory.mktemp(request.param) / "crashes.json"
    ended = run(CRASHED, request.param, os.environ.get("HF_FINETUNE_KILLS", "commits"), answer)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(answer.read_text()) | {"name": request.param}


@pytest.fixture(scope="module")
def events(crashes: dict[str, Any]) -> list[Event]:
    return [Event(event["kind"], tuple(event["paths"]), tuple(event["changed"])) for event in crashes["events"]]


def test_a_run_killed_at_a_commit_is_resumed_to_the_same_bits(crashes: dict[str, Any]) -> None:
    """The same weights, metrics, predictions and losses, and the same files: nothing half-written is left."""
    assert len(crashes["resumed"]) >= 4
    for event, outcome in crashes["resumed"].items():
        assert outcome == crashes["whole"], f"killed before: {event}"


def test_every_file_appears_and_goes_away_whole(events: list[Event]) -> None:
    """Nothing but a rename changes what has its own name."""
    assert {event.kind for event in events if event.changed} == {"rename"}
    appeared = {Path(path).parts[1] for event in events for path in event.changed}
    assert {"recipe.json", "checkpoints", "trained_on.npy", "predictions.parquet", "README.md"} < appeared


def test_files_are_on_the_disk_before_their_names_and_names_before_the_next_change(events: list[Event]) -> None:
    """So that a power failure at any moment loses nothing that a later file relies on; result.json comes last."""
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
    targets = [events[number].paths[1] for number in commits]
    is_named = [not Path(target).name.startswith(".") for target in targets]
    end = targets.index("run/result.json")
    assert not any(is_named[end + 1 :]), "nothing gets its name after result.json"
    assert events[commits[-1]].paths[0] == "run/checkpoints" and commits[-1] > commits[end]
