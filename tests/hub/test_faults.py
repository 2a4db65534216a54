"""What the Hub and the way to it do to downloads and pushes: repeated, or one line with the remedy; no second commit."""

from __future__ import annotations

import re
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from helpers.hub_bench import COMMIT, FIRST, OURS, REPO, Bench
from helpers.hub_faults import Fault
from helpers.hub_routes import new_token
from helpers.hub_server import HubServer, hub_server
from helpers.hub_store import Answer
from helpers.tiny import tiny_text_checkpoint
from huggingface_hub import HfApi, constants, file_download, snapshot_download

from hf_finetune.errors import InputError, PushError
from hf_finetune.hub.retry import MOST_UNREACHED_S, MOST_WAITING_S, Retries
from hf_finetune.models import checkpoint
from hf_finetune.utils import hub_requests

MODEL, WEIGHTS = "lab/bert", r"/resolve/.*/model\.safetensors"
ALWAYS = 1000


@dataclass
class Download:
    """A Hub with a checkpoint, and the waits before a download is repeated."""

    server: HubServer
    whole: Path
    sleeps: list[float] = field(default_factory=list)

    def check(self) -> None:
        """Download the checkpoint, and compare every byte."""
        folder = checkpoint.inspect_checkpoint(MODEL).folder
        for file in self.whole.iterdir():
            assert (folder / file.name).read_bytes() == file.read_bytes()

    def answer(self, method: str, path: str, answer: Answer, *, times: int = 1) -> None:
        """Give another answer than the Hub's."""
        self.server.faults.append(Fault(method, re.compile(path), times, answer=answer))

    def refusal(self) -> str:
        """Return the line with which the download is refused."""
        with pytest.raises(InputError) as caught:
            self.check()
        line = str(caught.value)
        assert line.startswith(f"{MODEL}: ") and "\n" not in line and len(line) < 400
        assert self.server.token not in line
        return line


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_text_checkpoint(tmp_path_factory.mktemp("whole") / "bert")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, whole: Path) -> Iterator[Download]:
    with hub_server() as server:
        server.connect(monkeypatch, tmp_path / "home")
        server.add_model(MODEL, whole)
        monkeypatch.setattr(checkpoint, "snapshot_download", partial(snapshot_download, endpoint=server.endpoint))
        monkeypatch.setattr(file_download, "time", NoSleep)
        hub = Download(server, whole)
        monkeypatch.setattr(hub_requests, "sleep", hub.sleeps.append)
        yield hub


class NoSleep:
    """huggingface_hub's own waits between the retries of a download."""

    sleep = staticmethod(lambda seconds: None)


def cut_off(hub: Download, *, times: int = 1) -> None:
    """The announced size and ETag, and a part of the file."""
    blob = hub.server.repo(MODEL).at("main").files["model.safetensors"]
    hub.answer("GET", WEIGHTS, Answer(200, blob.content[:1000], {"ETag": f'"{blob.etag}"'}), times=times)


PAGE = Answer(200, b"<html>Log in to this network</html>", {"Content-Type": "text/html"})
EXPIRED = Answer(403, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")
PASSING: dict[str, Callable[[Download], None]] = {
    "reset in mid-body": lambda hub: hub.server.reset_answer("GET", WEIGHTS, after_bytes=5000),
    "reset before the body": lambda hub: hub.server.reset_answer("GET", "/resolve/"),
    "lost answer": lambda hub: hub.server.drop_answer("GET", "/api/"),
    "cut off, with the announced ETag": cut_off,
    "500 from the API": lambda hub: hub.server.fail("GET", "/api/", status=500),
    "502 of a proxy": lambda hub: hub.answer("GET", "/api/", Answer(502, b"<html>Bad gateway</html>")),
    "503 twice for a file": lambda hub: hub.server.fail("GET", WEIGHTS, status=503, times=2),
    "page of a proxy, once": lambda hub: hub.answer("GET", "/api/", PAGE),
    "link that has expired": lambda hub: hub.answer("GET", WEIGHTS, EXPIRED),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_download_is_repeated(hub: Download, name: str) -> None:
    PASSING[name](hub)
    hub.check()
    assert hub.sleeps == [1.0, 3.0][: 2 if "twice" in name else 1]


def test_a_download_waits_as_long_as_the_hub_asks(hub: Download) -> None:
    hub.server.fail("GET", "/api/", status=429, headers={"Retry-After": "17"})
    hub.server.fail("GET", "/api/", status=503, headers={"Retry-After": "86400"})
    hub.check()
    assert hub.sleeps == [17.0, hub_requests.MOST_REQUESTED_S]


def test_slow_bytes_are_awaited(hub: Download) -> None:
    hub.server.delay("GET", "/resolve/.*/config.json", byte_s=0.0005)
    hub.check()
    assert hub.sleeps == []


def test_a_renamed_repository_is_found(hub: Download) -> None:
    hub.server.rename(MODEL, "lab/new-name")
    hub.check()


LASTING: dict[str, tuple[Callable[[Download], None], str]] = {
    "reset in mid-body": (
        lambda hub: hub.server.reset_answer("GET", WEIGHTS, times=ALWAYS, after_bytes=0),
        r"the download broke off \(.*reset by peer\); try again: finished files are kept",
    ),
    "cut off": (lambda hub: cut_off(hub, times=ALWAYS), r"a file came in another size than announced\); try again"),
    "503": (lambda hub: hub.server.fail("GET", "/", status=503, times=ALWAYS), r"\(503 disturbed\); try again"),
    "429": (lambda hub: hub.server.fail("GET", "/api/", status=429, times=ALWAYS), r"\(429 disturbed\); try again"),
    "page of a proxy": (
        lambda hub: hub.answer("GET", "/api/", PAGE, times=ALWAYS),
        r"another page came in place of the Hub's answer, perhaps that of a proxy\); try again",
    ),
    "expired link": (
        lambda hub: hub.answer("GET", WEIGHTS, EXPIRED, times=ALWAYS),
        r"the Hub refused it \(403 .*Request has expired.*try again later, or download it otherwise",
    ),
    "redirects without end": (
        lambda hub: hub.answer("GET", "/api/", Answer(307, b"", {"Location": f"/api/models/{MODEL}/revision/main"}), times=ALWAYS),
        r"Exceeded maximum allowed redirects",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LASTING)
def test_a_lasting_fault_is_one_line(hub: Download, name: str) -> None:
    prepare, message = LASTING[name]
    prepare(hub)
    assert re.search(message, hub.refusal())
    assert hub.sleeps == ([] if name == "redirects without end" else list(hub_requests.WAITS_S))


@pytest.mark.parametrize("path", ["/api/", WEIGHTS])
def test_a_hub_that_never_answers(hub: Download, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub alone would wait for the first answer without end."""
    monkeypatch.setattr(hub_requests, "ANSWER_S", 0.1)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    hub.server.delay("GET", path, seconds=30, times=ALWAYS)
    assert re.search(r"the download broke off \(.*timed out.*\); try again: finished files are kept", hub.refusal())


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "GatedRepo", "access to this checkpoint is gated; accept its terms at .* and log in"),
        (401, "GatedRepo", "access to this checkpoint is gated; accept its terms at .* and log in"),
        (403, "DisabledRepo", r"the Hub refused it \(403 not for you\)"),
        (404, "RepoNotFound", "neither a folder here nor a model on the Hub; check the name, or log in"),
    ],
)
def test_repositories_that_may_not_be_read(hub: Download, status: int, code: str, message: str) -> None:
    headers = {"X-Error-Code": code, "X-Error-Message": "not for you"}
    for method in ("GET", "HEAD"):
        hub.answer(method, "/", Answer(status, {"error": "not for you"}, headers), times=ALWAYS)
    assert re.search(message, hub.refusal()) and hub.sleeps == []


def test_a_token_that_is_no_longer_accepted(hub: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    token = new_token()
    monkeypatch.setenv("HF_TOKEN", token)
    line = hub.refusal()
    assert "the Hub does not accept the token: run `hf auth login`, or set HF_TOKEN" in line and token not in line


def test_no_connection(hub: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told at once: the name may be that of a folder, mistyped."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "the Hub cannot be reached ([Errno -2] Name or service not known); go online" in hub.refusal()
    monkeypatch.undo()


def test_a_hub_that_is_down(hub: Download) -> None:
    hub.server.http.shutdown()
    hub.server.http.server_close()
    assert re.search(r"the Hub cannot be reached \(.*refused\); go online or give a folder", hub.refusal())
    assert hub.sleeps == []


def test_a_full_disk_of_the_cache(hub: Download) -> None:
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        line = hub.refusal()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert re.search(r"/hub.* cannot be written \(File too large\); make room there, or name .* by HF_HOME", line)
    hub.check()


# Pushes. What `test_push.py` has besides: errors and lost answers of each step, late commits, commits of others.


@pytest.mark.parametrize(("method", "path"), [("PUT", "/lfs/"), ("POST", COMMIT), ("POST", "/preupload/")])
def test_a_push_whose_upload_is_reset(bench: Bench, method: str, path: str) -> None:
    bench.server.reset_request(method, path, times=2)
    assert bench.push().created
    assert bench.titles() == [OURS, FIRST]


@pytest.mark.parametrize("path", [COMMIT, WEIGHTS, "/api/models/"])
def test_a_push_whose_answer_is_reset(bench: Bench, path: str) -> None:
    """The commit has been made when its answer breaks off."""
    for method in ("POST", "GET"):
        bench.server.reset_answer(method, path, after_bytes=3)
    assert bench.push().created
    assert bench.titles() == [OURS, FIRST]


def test_a_commit_whose_answer_comes_too_late(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_requests, "ANSWER_S", 0.2)
    bench.server.delay("POST", COMMIT, seconds=1.0)
    assert bench.push().created
    assert bench.titles() == [OURS, FIRST] and len(bench.sleeps) == 1


def test_a_push_to_a_hub_that_never_answers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_requests, "ANSWER_S", 0.05)
    bench.server.delay("GET", "/tree/", seconds=30, times=ALWAYS)
    with pytest.raises(PushError, match=r"gave up after .* \(timed out\); safe to push again"):
        bench.push()


def test_a_push_without_a_connection_ends_soon(bench: Bench) -> None:
    """A Hub that has answered once is waited for."""
    bench.server.http.shutdown()
    bench.server.http.server_close()
    with pytest.raises(PushError, match=r"the Hub cannot be reached \(.*refused\); check the network, and push again$"):
        bench.push()
    assert 0 < sum(bench.sleeps) < MOST_UNREACHED_S
    retries, before = Retries(REPO, "", reached=True), len(bench.sleeps)
    # Pauses are random, so that the sum of those that fit varies.
    with pytest.raises(PushError, match=r"gave up after \d+ s of waiting"):
        retries(lambda: HfApi(endpoint=bench.server.endpoint).whoami("token"))
    assert sum(bench.sleeps[before:]) > MOST_WAITING_S / 2


def test_a_token_that_is_revoked_within_a_push(bench: Bench) -> None:
    bench.server.intervene("POST", COMMIT, bench.server.users.clear)
    with pytest.raises(InputError, match="the Hub does not accept the token: run `hf auth login`") as caught:
        bench.push()
    assert bench.titles() == [FIRST] and bench.server.token not in str(caught.value)


def test_a_push_to_a_renamed_repository(bench: Bench) -> None:
    bench.server.create("tester/old")
    bench.server.rename("tester/old", REPO)
    bench.push("tester/old")
    assert bench.titles() == [OURS, FIRST]


def test_a_pulled_copy_that_is_cut_off_is_fetched_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_download, "time", NoSleep)

    def answer() -> None:
        hub = Download(bench.server, bench.run)
        hub.answer("GET", WEIGHTS, Answer(200, b"a part"))

    bench.server.intervene("POST", COMMIT, answer)
    assert bench.push().created and len(bench.sleeps) == 1
