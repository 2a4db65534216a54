"""The loopback Hub answers the real huggingface_hub, datasets and transformers as the Hub does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from helpers.hub_routes import new_token
from helpers.hub_server import HubServer, hub_server
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, snapshot_download
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session, hf_raise_for_status, httpx

# huggingface_hub's own use of its HTTP client, in every upload through LFS.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
WEIGHTS = bytes(range(256)) * 40


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with hub_server() as running:
        running.connect(monkeypatch, tmp_path / "home")
        yield running


@pytest.fixture
def api(server: HubServer) -> HfApi:
    return HfApi(endpoint=server.endpoint)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    (path / "sub").mkdir(parents=True)
    (path / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    (path / "sub" / "empty.safetensors").write_bytes(b"")
    (path / "model.safetensors").write_bytes(WEIGHTS)
    return path


def test_a_folder_comes_back_byte_for_byte(api: HfApi, server: HubServer, folder: Path, tmp_path: Path) -> None:
    assert api.whoami()["name"] == "tester"
    url = api.create_repo("tester/a.b-c")
    assert (url.repo_id, url.repo_type) == ("tester/a.b-c", "model")
    first = server.repo("tester/a.b-c").refs["refs/heads/main"]
    info = api.upload_folder(repo_id="tester/a.b-c", folder_path=folder)

    got = Path(snapshot_download("tester/a.b-c", endpoint=server.endpoint, cache_dir=tmp_path / "cache"))
    assert got.name == info.oid
    for name in ("README.md", "sub/empty.safetensors", "model.safetensors"):
        assert (got / name).read_bytes() == (folder / name).read_bytes()
    assert server.repo("tester/a.b-c").commits[info.oid].parent == first
    entries = {e.path: e for e in api.list_repo_tree("tester/a.b-c", recursive=True)}
    assert entries["model.safetensors"].lfs.size == len(WEIGHTS)
    assert entries["README.md"].lfs is None
    assert set(entries) == {".gitattributes", "README.md", "model.safetensors", "sub", "sub/empty.safetensors"}
    [only] = api.get_paths_info("tester/a.b-c", ["sub", "nowhere"])
    assert only.path == "sub"
    assert ModelCard.load(str(got / "README.md")).data.license == "mit"


def test_the_same_content_makes_no_commit_and_no_upload(api: HfApi, server: HubServer, folder: Path) -> None:
    api.create_repo("tester/m")
    first = api.upload_folder(repo_id="tester/m", folder_path=folder)
    puts = sum(r.method == "PUT" for r in server.requests)
    assert api.upload_folder(repo_id="tester/m", folder_path=folder).oid == first.oid
    assert sum(r.method == "PUT" for r in server.requests) == puts == 1


def test_branches_tags_pull_requests_and_history(api: HfApi, server: HubServer) -> None:
    api.create_repo("tester/m")
    add = [CommitOperationAdd("a/x.txt", b"1"), CommitOperationAdd("b.txt", b"2")]
    one = api.create_commit("tester/m", add, commit_message="one", commit_description="why")
    api.create_tag("tester/m", tag="v1")
    api.create_branch("tester/m", branch="side/way")
    api.create_branch("tester/m", branch="side/way", exist_ok=True)
    api.create_commit("tester/m", [CommitOperationDelete("a/")], commit_message="two", revision="side/way")
    pull = api.create_commit("tester/m", [CommitOperationAdd("b.txt", b"3")], commit_message="three", create_pr=True)
    assert pull.pr_revision == "refs/pr/1"

    assert api.list_repo_files("tester/m", revision="v1") == [".gitattributes", "a/x.txt", "b.txt"]
    assert api.list_repo_files("tester/m", revision="side/way") == [".gitattributes", "b.txt"]
    commits = api.list_repo_commits("tester/m", revision="refs/pr/1")
    assert [c.title for c in commits] == ["three", "one", "initial commit"]
    assert commits[1].message == "why"
    refs = api.list_repo_refs("tester/m", include_pull_requests=True)
    assert [r.name for r in refs.branches] == ["main", "side/way"]
    assert refs.tags[0].target_commit == one.oid
    [discussion] = api.get_repo_discussions("tester/m", discussion_type="pull_request", discussion_status="open")
    assert discussion.git_reference == "refs/pr/1"
    api.merge_pull_request("tester/m", 1)
    assert server.repo("tester/m").at("main").oid == pull.oid
    api.delete_tag("tester/m", tag="v1")
    with pytest.raises(RevisionNotFoundError):
        api.list_repo_files("tester/m", revision="v1")
    api.delete_repo("tester/m")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("tester/m")


def test_a_stale_parent_is_refused(api: HfApi, server: HubServer) -> None:
    api.create_repo("tester/m")
    head = api.model_info("tester/m").sha
    server.commit("tester/m", {"other.txt": b"x"})
    with pytest.raises(HfHubHTTPError) as caught:
        add = [CommitOperationAdd("a", b"1")]
        api.create_commit("tester/m", add, commit_message="late", parent_commit=head)
    assert caught.value.response.status_code == 412


def test_errors_name_what_is_missing(api: HfApi, server: HubServer) -> None:
    server.create("tester/m")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("tester/m", "nothing.txt")
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download("tester/m", "nothing.txt", revision="v9")
    with pytest.raises(RepositoryNotFoundError):
        api.hf_hub_download("tester/none", "nothing.txt")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("tester/m")
    api.create_repo("tester/m", exist_ok=True)
    with pytest.raises(ValueError, match="base_model"):
        card = b"---\nbase_model: /home/me/model\n---\n"
        api.create_commit("tester/m", [CommitOperationAdd("README.md", card)], commit_message="m")
    with pytest.raises(BadRequestError, match="does not exist"):
        line = {"key": "lfsFile", "value": {"path": "w.bin", "algo": "sha256", "oid": "0" * 64, "size": 1}}
        header = {"key": "header", "value": {"summary": "m"}}
        body = "\n".join(map(json.dumps, [header, line])).encode()
        headers = {"authorization": f"Bearer {server.token}"}
        url = f"{server.endpoint}/api/models/tester/m/commit/main"
        hf_raise_for_status(get_session().post(url, content=body, headers=headers))


def test_writes_need_the_owner_and_private_repositories_are_hidden(server: HubServer) -> None:
    server.create("tester/secret", private=True)
    server.create("other/open")
    nobody, owner, wrong = (HfApi(endpoint=server.endpoint, token=t) for t in (False, server.token, new_token()))
    assert owner.model_info("tester/secret").private
    assert nobody.model_info("other/open").id == "other/open"
    with pytest.raises(RepositoryNotFoundError):
        nobody.model_info("tester/secret")
    add = [CommitOperationAdd("a", b"1")]
    for api, repo, status in ((nobody, "other/open", 401), (wrong, "other/open", 401), (owner, "other/open", 403)):
        with pytest.raises(HfHubHTTPError) as caught:
            api.create_commit(repo, add, commit_message="m")
        assert caught.value.response.status_code == status
    with pytest.raises(HfHubHTTPError, match="403"):
        owner.create_repo("other/new")
    assert owner.create_commit("other/open", add, commit_message="m", create_pr=True).pr_num == 1
    owner.update_repo_settings("tester/secret", private=False)
    assert not nobody.model_info("tester/secret").private
    assert server.holding(server.token) == []


def test_range_request(server: HubServer) -> None:
    server.create("tester/m")
    commit = server.commit("tester/m", {"w.safetensors": WEIGHTS})
    url = f"{server.endpoint}/tester/m/resolve/main/w.safetensors"
    for asked, got in (("5-9", WEIGHTS[5:10]), ("10000-", WEIGHTS[10000:]), ("-7", WEIGHTS[-7:])):
        response = get_session().get(url, headers={"Range": f"bytes={asked}"})
        assert (response.status_code, response.content) == (206, got)
        assert response.headers["x-repo-commit"] == commit
        assert response.headers["x-linked-size"] == str(len(WEIGHTS))
    assert get_session().get(url, headers={"Range": f"bytes={len(WEIGHTS)}-"}).status_code == 416
    assert len(get_session().head(url).content) == 0


def test_faults_before_and_after_a_request_and_lost_responses(api: HfApi, server: HubServer) -> None:
    server.create("tester/m")
    repo = server.repo("tester/m")

    def commit(name: str) -> None:
        api.create_commit("tester/m", [CommitOperationAdd(name, b"1")], commit_message=name)

    server.fail("POST", "/commit/", status=503)
    with pytest.raises(HfHubHTTPError, match="503"):
        commit("a")
    assert len(repo.history()) == 1
    server.fail("POST", "/commit/", status=500, after_commit=True)
    with pytest.raises(HfHubHTTPError, match="500"):
        commit("b")
    assert len(repo.history()) == 2
    server.drop_answer("POST", "/commit/")
    with pytest.raises(httpx.TransportError):
        commit("c")
    assert len(repo.history()) == 3
    server.intervene("POST", "/commit/", lambda: server.commit("tester/m", {"theirs": b""}))
    commit("d")
    assert [c.title for c in repo.history()[:2]] == ["d", "by someone else"]
    received = [r for r in server.requests if r.method == "POST" and "/commit/" in r.path]
    assert len(received) == 4 and b'"b"' in received[1].body and "authorization" in received[0].headers


READ = """
import json, os, sys
from datasets import load_dataset
from transformers import AutoModel
found = {}
for config in ("mnli", "cola"):
    splits = load_dataset("nyu-mll/glue", config)
    found[config] = {name: [rows.num_rows, rows[0]["label"]] for name, rows in splits.items()}
    found["names"] = splits["train"].features["label"].names
matched = load_dataset("nyu-mll/glue", "mnli", split="validation_matched", revision="main")
found["columns"] = matched.column_names
found["first"] = matched[0]["premise"]
model = AutoModel.from_pretrained("tester/bert")
found["sum"] = float(model.embeddings.word_embeddings.weight.detach().double().sum())
print(json.dumps(found))
"""


def test_datasets_and_transformers_read_from_it_in_a_fresh_process(server: HubServer, tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value
    from transformers import BertConfig, BertModel

    def table(rows: int, labels: list[int], prefix: str) -> pa.Table:
        names = ClassLabel(names=["entailment", "neutral"])
        features = Features({"premise": Value("string"), "hypothesis": Value("string"), "label": names})
        texts = [f"{prefix} {i}" for i in range(rows)]
        return Dataset.from_dict({"premise": texts, "hypothesis": texts, "label": labels}, features=features).data.table

    splits = {
        "train": table(4, [0, 1, 0, 1], "train"),
        "validation_matched": table(2, [1, 0], "matched"),
        "validation_mismatched": table(3, [0, 0, 1], "mismatched"),
        "test": table(2, [-1, -1], "test"),
    }
    server.add_dataset("nyu-mll/glue", splits, config="mnli")
    server.add_dataset("nyu-mll/glue", {"train": splits["train"]}, config="cola")
    config = BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, pad_token_id=0
    )
    model = BertModel(config)
    model.save_pretrained(tmp_path / "bert")
    server.add_model("tester/bert", tmp_path / "bert", private=True)

    environment = {**os.environ, **server.environment(tmp_path / "home")}
    child = subprocess.run([sys.executable, "-c", READ], env=environment, capture_output=True, text=True, timeout=1800)
    assert child.returncode == 0, child.stderr[-2000:]
    found = json.loads(child.stdout.splitlines()[-1])
    assert found["mnli"] == {
        "train": [4, 0],
        "validation_matched": [2, 1],
        "validation_mismatched": [3, 0],
        "test": [2, -1],
    }
    assert found["cola"] == {"train": [4, 0]}
    assert found["names"] == ["entailment", "neutral"]
    assert found["columns"] == ["premise", "hypothesis", "label"]
    assert found["first"] == "matched 0"
    assert found["sum"] == pytest.approx(float(model.embeddings.word_embeddings.weight.detach().double().sum()))
