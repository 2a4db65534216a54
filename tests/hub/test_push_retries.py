"""A push makes one commit, whatever fails, and waits as long as the Hub asks."""

from __future__ import annotations

import re

import pytest
from helpers.hub_bench import COMMIT, FIRST, OURS, REPO, SENT, Bench
from helpers.hub_faults import Fault
from helpers.hub_store import Answer

from hf_finetune.errors import PushError
from hf_finetune.hub import retry


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("after_commit", [False, True])
def test_a_failing_commit_is_not_made_twice(bench: Bench, status: int, after_commit: bool) -> None:
    bench.server.fail("POST", COMMIT, status=status, times=1 if after_commit else 3, after_commit=after_commit)
    pushed = bench.push()
    assert bench.titles() == [OURS, FIRST]
    assert pushed.created and set(bench.files()) == SENT
    assert len(bench.sleeps) == (1 if after_commit else 3)


@pytest.mark.parametrize("create_pr", [False, True])
def test_a_lost_response_makes_no_second_commit(bench: Bench, create_pr: bool) -> None:
    bench.server.drop_answer("POST", COMMIT)
    pushed = bench.push(create_pr=create_pr)
    assert pushed.created
    if create_pr:
        assert list(bench.server.repo(REPO).pulls) == [1]
        assert bench.titles("refs/pr/1") == [OURS, FIRST]
        assert (pushed.revision, pushed.url) == ("refs/pr/1", f"{bench.server.endpoint}/{REPO}/discussions/1")
        assert bench.titles() == [FIRST]
    else:
        assert bench.titles() == [OURS, FIRST]


def test_a_commit_that_lands_late_is_not_made_twice(bench: Bench) -> None:
    """The first request fails with an error and takes effect just before the second one."""

    def land() -> None:
        bench.server.route(next(r for r in bench.server.requests if r.method == "POST" and "/commit/" in r.path))

    bench.server.fail("POST", COMMIT, status=503)
    bench.server.intervene("POST", COMMIT, land)
    assert bench.push().created
    assert bench.titles() == [OURS, FIRST]


def test_someone_elses_commit_in_between_is_kept(bench: Bench) -> None:
    bench.server.create(REPO)
    bench.server.intervene("POST", COMMIT, lambda: bench.server.commit(REPO, {"README.md": b"theirs", "x": b"1"}))
    bench.push()
    assert bench.titles() == [OURS, "by someone else", FIRST]
    assert bench.files()["x"] == b"1" and bench.files()["README.md"] != b"theirs"
    statuses = [r for r in bench.server.requests if r.method == "POST" and "/commit/" in r.path]
    assert len(statuses) == 2 and b"parentCommit" in statuses[0].body


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/repos/create"),
        ("GET", "/revision/"),
        ("GET", "/tree/"),
        ("POST", "/api/validate-yaml"),
        ("POST", "/preupload/"),
        ("POST", "objects/batch"),
        ("PUT", "/lfs/"),
        ("POST", "/api/lfs/verify"),
        ("HEAD", "/resolve/"),
        ("GET", "/resolve/"),
        ("POST", "/branch/"),
        ("GET", "/refs"),
    ],
)
def test_every_step_survives_a_failure(bench: Bench, method: str, path: str) -> None:
    bench.server.fail(method, path, status=503)
    bench.server.fail(method, path, status=500, after_commit=True)
    bench.server.drop_answer(method, path)
    bench.push(revision="side")
    assert bench.titles("side") == [OURS, FIRST]
    # The result of a failed request is not requested again.
    assert [fault.times for fault in bench.server.faults] == [0, 0, int(path in ("/branch/", "/api/repos/create"))]


def test_error_page_of_a_proxy_is_transient(bench: Bench) -> None:
    page = Answer(502, b"<html>Bad gateway</html>", {"Content-Type": "text/html"})
    for path in ("/api/validate-yaml", COMMIT, "/preupload/"):
        bench.server.faults.append(Fault("POST", re.compile(path), 1, answer=page))
    assert bench.push().created
    assert bench.titles() == [OURS, FIRST]


def test_waits_that_the_hub_requests(bench: Bench) -> None:
    bench.server.fail("POST", COMMIT, status=429, headers={"Retry-After": "17"})
    bench.server.fail("POST", COMMIT, status=429, headers={"RateLimit": '"api";r=0;t=21'})
    bench.server.fail("POST", COMMIT, status=503)
    bench.push()
    assert bench.sleeps[:2] == [17.0, 22.0]
    assert 2.0 <= bench.sleeps[2] <= 4.0


def test_waits_within_huggingface_hub_count(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 60))
    monkeypatch.setattr(retry, "monotonic", lambda: float(next(clock)))
    bench.server.fail("POST", COMMIT, status=503, times=1000)
    with pytest.raises(PushError):
        bench.push()
    # Each failed attempt took a minute on this clock, of which 23 s may have been waiting.
    assert 120 - 23 - 32 < sum(bench.sleeps) + 23 * len(bench.sleeps) <= 120


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "300"}])
def test_gives_up_after_the_longest_wait(bench: Bench, headers: dict[str, str]) -> None:
    bench.server.fail("POST", COMMIT, status=503, times=1000, headers=headers, message=f"no {bench.server.token}")
    with pytest.raises(PushError, match=r"tester/movie: gave up .*503 no \[token\].*push again") as caught:
        bench.push()
    assert sum(bench.sleeps) <= 120 and len(bench.sleeps) == (0 if headers else len(bench.sleeps)) < 12
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert bench.titles() == [FIRST]
