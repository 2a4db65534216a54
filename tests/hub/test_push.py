"""A push sends the content of a run and no secret, once; against the loopback Hub."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml
from helpers.hub_bench import FIRST, OURS, REPO, SENT, Bench
from helpers.hub_routes import new_token
from helpers.hub_run import RECIPE, example_result, write_run
from helpers.hub_store import Blob
from helpers.saved_runs import saved_run, seal
from huggingface_hub import ModelCard, constants, parse_eval_result_entries, snapshot_download

from hf_finetune import Hub
from hf_finetune.errors import GateError, InputError
from hf_finetune.hub.eval_results import eval_results_file
from hf_finetune.models import checkpoint
from hf_finetune.tasks.trained_model import load_trained
from hf_finetune.utils import hashing
from hf_finetune.utils.manifest import Manifest


def test_content_of_a_push(bench: Bench) -> None:
    pulled: list[set[str]] = []

    def check(folder: Path) -> None:
        pulled.append({p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()})

    pushed = bench.push(check=check)
    assert bench.titles() == [OURS, FIRST]
    assert set(bench.files()) == SENT == set(pushed.files)
    assert pulled[0] >= SENT
    assert pushed.created and pushed.commit == bench.server.repo(REPO).at("main").oid
    assert pushed.url == f"{bench.server.endpoint}/{REPO}"
    assert bench.files()["model.safetensors"] == (bench.run / "model" / "model.safetensors").read_bytes()
    everything = b"".join(bench.files().values())
    assert b"/home/me" not in everything
    recipe = json.loads(bench.files()["recipe.json"])["recipe"]
    assert (recipe["data"]["path"], recipe["model"]["checkpoint"]) == ("movie", "minilm")
    assert json.loads(bench.files()["result.json"])["labels"] == ["negative", "positive"]
    base = json.loads(bench.files()["adapter/adapter_config.json"])["base_model_name_or_path"]
    assert base == "sentence-transformers/all-MiniLM-L6-v2"
    card = ModelCard(bench.files()["README.md"].decode())
    assert card.data.base_model == base and f'model="{REPO}"' in card.text and "DIR" not in card.text
    assert bench.sleeps == []


def test_the_token_is_neither_sent_nor_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bench.push()
    token = bench.server.token
    assert bench.server.holding(token) == []
    assert all(token.encode() not in request.body and token not in request.path for request in bench.server.requests)
    assert any(request.headers.get("authorization") == f"Bearer {token}" for request in bench.server.requests)
    assert token not in caplog.text


def test_pushing_again_changes_nothing(bench: Bench) -> None:
    first, again = bench.push(), bench.push()
    assert bench.titles() == [OURS, FIRST]
    assert again == replace(first, created=False)
    (bench.run / "README.md").write_text((bench.run / "README.md").read_text() + "\nOne more line.\n")
    assert bench.push().created
    assert bench.titles() == [OURS, OURS, FIRST]


def test_a_branch_is_made_when_it_is_not_there(bench: Bench) -> None:
    assert bench.push(revision="v/2").url.endswith(f"{REPO}/tree/v/2")
    assert (bench.titles("v/2"), bench.titles()) == ([OURS, FIRST], [FIRST])
    assert not bench.push(revision="v/2").created


def test_one_pull_request_for_one_content(bench: Bench) -> None:
    bench.server.create("other/open")
    first, again = (bench.push("other/open", create_pr=True) for _ in range(2))
    assert (first.created, again.created) == (True, False)
    assert list(bench.server.repo("other/open").pulls) == [1] and first.commit == again.commit
    bench.server.repo("other/open").pulls[1]["status"] = "closed"
    assert bench.push("other/open", create_pr=True).revision == "refs/pr/2"
    with pytest.raises(InputError, match="against main"):
        bench.push(revision="side", create_pr=True)


def test_private_repository(bench: Bench) -> None:
    bench.push(private=True)
    assert bench.server.repo(REPO).private
    bench.push(private=True)
    bench.server.create("tester/open")
    with pytest.raises(InputError, match="exists and is public"):
        bench.push("tester/open", private=True)
    assert bench.titles(repo_id="tester/open") == [FIRST]


def test_files_of_an_earlier_run_are_deleted_and_others_kept(bench: Bench, tmp_path: Path) -> None:
    bench.push()
    stale = {"adapter/theirs.txt": b"x", "model-00001-of-00002.safetensors": b"y", "vocab.txt": b"z"}
    bench.server.commit(REPO, {"LICENSE": b"mine", **stale})
    bench.run = write_run(tmp_path / "second", adapter=False)
    bench.push(include_predictions=True)
    kept = {path for path in SENT if not path.startswith("adapter/")}
    assert set(bench.files()) == kept | {"LICENSE", "predictions.parquet"}
    bench.push()
    assert set(bench.files()) == kept | {"LICENSE"}


def test_plots_are_sent_and_replaced(bench: Bench) -> None:
    """Those that a run draws, and no other file of the folder."""
    folder = bench.run / "plots"
    folder.mkdir()
    for name in ("reliability.png", "reliability.svg", "notes.png"):
        (folder / name).write_bytes(b"x")
    bench.push()
    assert set(bench.files()) == SENT | {"plots/reliability.png", "plots/reliability.svg"}
    (folder / "reliability.svg").unlink()
    bench.push()
    assert set(bench.files()) == SENT | {"plots/reliability.png"}


def test_a_repository_with_another_model_is_refused(bench: Bench) -> None:
    """Its files would load as a part of the pushed model."""
    bench.server.create(REPO)
    for path in ("adapter/theirs.txt", "model-00001-of-00002.safetensors", "vocab.txt", "modeling.py"):
        bench.server.commit(REPO, {"notes.md": b"mine", path: b"x"})
        with pytest.raises(InputError, match=f"{path} of another model is there, .* delete it there") as caught:
            bench.push()
        assert "\n" not in str(caught.value) and "README.md" not in bench.files()
        bench.server.repo(REPO).at("main").files.pop(path)
    assert bench.push().created and "notes.md" in bench.files()


def test_snippets_load_from_the_target_repository(bench: Bench, tmp_path: Path) -> None:
    planned = replace(RECIPE, hub=Hub(repo_id="tester/planned"))
    bench.run = write_run(tmp_path / "planned", recipe=planned)
    bench.push("tester/elsewhere")
    card = bench.server.repo("tester/elsewhere").at("main").files["README.md"].content.decode()
    assert 'model="tester/elsewhere"' in card and "tester/planned" not in card


@pytest.mark.parametrize("repo_id", ["movie", "a/b/c", "tester/ä", "tester/..", ""])
def test_a_bad_name_is_one_line(bench: Bench, repo_id: str) -> None:
    with pytest.raises(InputError) as caught:
        bench.push(repo_id)
    assert "\n" not in str(caught.value)
    assert bench.server.requests == []


def test_without_a_token_nothing_is_sent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match=r"hf auth login.*HF_TOKEN"):
        bench.push()
    assert bench.server.requests == []


def test_the_token_of_hf_auth_login_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    Path(constants.HF_TOKEN_PATH).parent.mkdir(parents=True)
    Path(constants.HF_TOKEN_PATH).write_text(bench.server.token)
    assert bench.push().created


def test_offline_mode_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        bench.push()


def test_refusals_are_one_line_with_the_remedy(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.server.create("other/open")
    bench.server.create("other/secret", private=True)
    token = new_token()
    for repo_id, remedy in (("other/open", "role write"), ("other/secret", "role write"), ("other/new", "role write")):
        with pytest.raises(InputError, match=remedy) as caught:
            bench.push(repo_id)
        assert "\n" not in str(caught.value)
    bench.server.fail("POST", "/api/repos/create", status=402, message=f"pay, {bench.server.token}")
    with pytest.raises(InputError, match=r"402 pay, \[token\]"):
        bench.push()
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError, match="hf auth login") as caught:
        bench.push()
    assert token not in repr(caught.value)
    assert bench.sleeps == []


def test_invalid_metadata_is_refused_before_anything_lands(bench: Bench) -> None:
    (bench.run / "README.md").write_text("---\nbase_model: /home/me/model\n---\n")
    with pytest.raises(InputError, match="base_model"):
        bench.push()
    assert bench.titles() == [FIRST] and bench.sleeps == []


def test_a_pulled_copy_that_differs_is_noticed(bench: Bench) -> None:
    def damage() -> None:
        files = bench.server.repo(REPO).at("main").files
        files["config.json"] = Blob(files["config.json"].content.replace(b"bert", b"treb"), False)

    bench.server.intervene("HEAD", "/resolve/.*/config.json", damage)
    with pytest.raises(GateError, match=r"config\.json .*not what was sent"):
        bench.push()


def test_check_of_the_caller_may_fail(bench: Bench) -> None:
    def check(pulled: Path) -> None:
        raise GateError("other logits")

    with pytest.raises(GateError, match="other logits"):
        bench.push(check=check)


def test_a_pulled_model_gives_the_same_logits(bench: Bench, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=13, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, pad_token_id=0
    )
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(bench.run / "model")
    ids = torch.arange(12).reshape(2, 6) + 1
    differences = []

    def check(pulled: Path) -> None:
        again = AutoModelForSequenceClassification.from_pretrained(pulled).eval()
        with torch.inference_mode():
            differences.append(float((again(ids).logits - model(ids).logits).abs().max()))

    bench.push(check=check)
    assert differences == [0.0]


def test_a_push_sends_the_files_of_the_manifest(bench: Bench) -> None:
    """And no others: neither what lies beside the artifacts nor what is hidden in them."""
    seal(bench.run)
    for path in ("id_rsa", "data.h5", "rows.npy", "model.pkl.gz", "model/.env", "model/README.md", "adapter/.netrc"):
        (bench.run / path).write_bytes(b"mine")
    bench.push()
    assert set(bench.files()) == SENT and b"mine" not in bench.files().values()
    sent = {path: hashlib.sha256(content).hexdigest() for path, content in bench.files().items()}
    artifacts = json.loads(bench.files()["result.json"])["artifacts"]
    assert {path.removeprefix("model/"): sha256 for path, sha256 in artifacts.items()} == {
        path: sha256 for path, sha256 in sent.items() if path not in ("README.md", "recipe.json", "result.json")
    }
    assert artifacts["adapter/adapter_config.json"] != Manifest.of(bench.run).hashes["adapter/adapter_config.json"]


def test_results_on_a_benchmark_are_sent_in_the_format_of_the_hub(bench: Bench) -> None:
    seal(bench.run)
    bench.push(benchmark="stanfordnlp/sst2:default")
    assert set(bench.files()) == {*SENT, ".eval_results/sst2.yaml"}
    (entry,) = parse_eval_result_entries(yaml.safe_load(bench.files()[".eval_results/sst2.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("stanfordnlp/sst2", "default", 0.8461)
    assert entry.notes.startswith("Accuracy of 200 test rows, 95% interval 0.8161 to 0.8761")
    assert entry.verify_token is None and entry.dataset_revision is None


def test_a_later_push_deletes_results_that_an_earlier_one_sent(bench: Bench) -> None:
    """Of a benchmark that is no longer named; and none that hold an entry of somebody else."""
    seal(bench.run)
    bench.push(benchmark="stanfordnlp/sst2:default")
    ours = bench.files()[".eval_results/sst2.yaml"]
    theirs = b"- dataset: {id: a/b, task_id: c}\n  value: 0.9\n  notes: measured by hand\n"
    kept = {"theirs.yaml": theirs, "both.yaml": ours + theirs, "none.yaml": b"", "text.yaml": b"a: [", "ours.md": ours}
    kept["large.yaml"] = ours + b"# " + b"x" * 100_000 + b"\n"
    bench.server.commit(REPO, {f".eval_results/{name}": content for name, content in kept.items()})
    bench.push(benchmark="nyu-mll/glue:sst2")
    kept["glue.yaml"] = bench.files()[".eval_results/glue.yaml"]
    assert set(bench.files()) == {*SENT, *(f".eval_results/{name}" for name in kept)}
    bench.push()
    assert set(bench.files()) == {*SENT, *(f".eval_results/{name}" for name in kept if name != "glue.yaml")}


@pytest.mark.parametrize("benchmark", ["sst2", "stanfordnlp/sst2", "../sst2:x", "a/b:c/d", "a/b:"])
def test_a_benchmark_of_another_form_is_refused(bench: Bench, benchmark: str) -> None:
    with pytest.raises(InputError, match=f"hub.benchmark {re.escape(benchmark)}: expected OWNER/DATASET:TASK"):
        bench.push(benchmark=benchmark)
    assert bench.server.requests == []


def test_a_benchmark_needs_a_test_split() -> None:
    result = example_result()
    del result["metrics"]["test"]
    with pytest.raises(InputError, match=r"hub\.benchmark a/b:c: the run has no test split"):
        eval_results_file("a/b:c", {}, result)


@pytest.mark.parametrize("name", ["id_rsa", "rows.h5", "rows.npy", "model.pkl.gz"])
@pytest.mark.parametrize("sealed", [True, False])
def test_other_files_in_an_artifact_are_refused(bench: Bench, name: str, sealed: bool) -> None:
    if sealed:
        seal(bench.run)
    (bench.run / "model" / name).write_bytes(b"mine")
    with pytest.raises(GateError if sealed else InputError, match=f"{name}: not a file .* remove it"):
        bench.push()
    assert bench.server.requests == []


def test_a_pulled_file_is_hashed_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one of the run where it is read for its token: not by the manifest again."""
    seal(bench.run)
    hashed: list[Path] = []
    of_files = hashing.of_files
    monkeypatch.setattr(hashing, "of_files", lambda *paths: (hashed.extend(paths), of_files(*paths))[1])
    bench.push()
    # The adapter's config is sent with the Hub id of its base.
    assert [path for path in hashed if path.is_relative_to(bench.run)] == [bench.run / "adapter/adapter_config.json"]
    pulled = [path.name for path in hashed if not path.is_relative_to(bench.run)]
    assert len(pulled) == len(SENT)


def test_the_pulled_copy_is_compared_with_the_manifest(bench: Bench) -> None:
    """Not with the local copy, which may change after it was sent; and a file of someone else is noticed."""
    seal(bench.run)

    def damage() -> None:
        weights = bench.run / "model" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
        bench.server.commit(REPO, {"model.safetensors": weights.read_bytes()})

    bench.server.intervene("HEAD", "/resolve/.*/model.safetensors", damage)
    pushed = bench.push()
    assert (
        bench.server.repo(REPO).at(pushed.commit).files["model.safetensors"].content
        != bench.files()["model.safetensors"]
    )
    with pytest.raises(GateError, match=r"model/model\.safetensors: not the file that the run wrote"):
        bench.push()


def test_a_changed_repository_is_refused_when_it_is_loaded(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "snapshot_download", partial(snapshot_download, endpoint=bench.server.endpoint))
    bench.run = saved_run(tmp_path / "saved")
    bench.push()
    seen = len(bench.server.requests)
    assert load_trained(REPO).labels == ("negative", "positive")
    asked = [request.path for request in bench.server.requests[seen:] if "/revision/" in request.path]
    assert len(asked) == 1, "the Hub is asked once for what is there"
    config = json.loads(bench.files()["config.json"]) | {"id2label": {"0": "positive", "1": "negative"}}
    spoiled = {
        "config.json": json.dumps(config).encode(),
        "added_tokens.json": b"{}",
        "result.json": b"",
    }
    for path, content in spoiled.items():
        before = bench.files().get(path)
        bench.server.commit(REPO, {path: content})
        error = InputError if path == "result.json" else GateError
        for load in (load_trained, checkpoint.inspect_checkpoint):
            with pytest.raises(error, match=rf"{path}: .*; ") as caught:
                load(REPO)
            assert "\n" not in str(caught.value)
        if before is None:
            bench.server.repo(REPO).at("main").files.pop(path)
        else:
            bench.server.commit(REPO, {path: before})


def test_private_keys_are_refused(bench: Bench) -> None:
    (bench.run / "README.md").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    with pytest.raises(InputError, match=r"README\.md: it contains an access token or a private key"):
        bench.push()
