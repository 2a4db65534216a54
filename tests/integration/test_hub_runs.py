"""The whole way with a Hub at both ends: a GLUE-shaped data set in, a pushed model out, in real processes."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from helpers import forks
from helpers.hub_server import HubServer
from helpers.small_runs import text_rows
from helpers.tiny import tiny_text_checkpoint

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="module")
def run(home: Path, hub_environment: dict[str, str]) -> Run:
    """A command in `home` to its end, with the exit status it must have."""
    environment = hub_environment | {"HF_FINETUNE_CACHE": str(home / "cache")}

    def to_its_end(*arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess:
        answer = forks.run(forks.COMMAND_WITHOUT_GATE, *arguments, environment=environment, cwd=home)
        assert answer.returncode == status, answer.stderr[-3000:]
        return answer

    return to_its_end


def glue_split(count: int, seed: int, *, labelled: bool = True) -> pa.Table:
    rows = text_rows(count, seed)
    return pa.table(
        {
            "premise": rows["text"][:],
            "hypothesis": [" ".join(text.split()[:3]) for text in rows["text"]],
            "label": pa.array(rows["label"][:] if labelled else [-1] * count, pa.int64()),
            "idx": pa.array(range(count), pa.int32()),
        }
    )


@pytest.fixture(scope="module")
def home(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user works; on the Hub: a BERT, and pairs with two validation splits and a test split without labels."""
    folder = tmp_path_factory.mktemp("home")
    hub.add_model("lab/tiny-bert", tiny_text_checkpoint(folder / "bert", "bert"))
    splits = {
        "train": glue_split(48, 0),
        "validation_matched": glue_split(16, 1),
        "validation_mismatched": glue_split(20, 2),
        "test_matched": glue_split(10, 3, labelled=False),
    }
    hub.add_dataset("lab/pairs", splits, config="mnli")
    return folder


FLAGS = ["--config-name", "mnli", "--model", "lab/tiny-bert", "--max-length", "32", "--epochs", "1"]
FLAGS += ["--train.per-device-train-batch-size", "8"]
TEST_ROWS = ["lab/pairs", "--config-name", "mnli", "--split", "test_matched"]


def test_two_validation_splits_have_to_be_chosen_between(run: Run, home: Path) -> None:
    answer = run("train", "lab/pairs", *FLAGS, "--output", "none", status=2)
    first = answer.stderr.splitlines()[0]
    assert "--validation" in first and "validation_matched" in first and "validation_mismatched" in first
    assert not (home / "none").exists()


def test_glue_shaped_data_train_push_and_pull(run: Run, hub: HubServer, home: Path) -> None:
    """Scored on the named validation split alone, pushed in one commit, pulled back equal; no token anywhere."""
    chosen = ["--validation", "validation_mismatched", "--push", "tester/pairs-bert"]
    answer = run("train", "lab/pairs", *FLAGS, *chosen, "--output", "run")
    result = json.loads((home / "run" / "result.json").read_text())
    assert result["rows"] == {"train": 48, "validation": 20}
    assert "test" not in result["metrics"] and result["metrics"]["validation"]["accuracy"]["n"] == 20
    assert result["base_model"] == "lab/tiny-bert"
    assert "no labeled test rows" in answer.stderr
    commits = [r for r in hub.requests if r.method == "POST" and "/models/tester/pairs-bert/commit/" in r.path]
    assert len(commits) == 1
    assert not hub.holding(hub.token)
    assert hub.token not in answer.stdout + answer.stderr
    assert not [p for p in (home / "run").rglob("*") if p.is_file() and hub.token.encode() in p.read_bytes()]
    card = (home / "run" / "README.md").read_text()
    assert "base_model: lab/tiny-bert" in card and "lab/pairs" in card

    # What lies on the Hub answers like what was trained.
    for model, output in (("tester/pairs-bert", "hub.csv"), ("run", "here.csv")):
        run("predict", model, *TEST_ROWS, "--output", output)
    assert (home / "hub.csv").read_text() == (home / "here.csv").read_text()
    assert len((home / "hub.csv").read_text().splitlines()) == 11

    listed = {f"model/{file.name}" for file in (home / "run" / "model").iterdir()}
    assert set(result["artifacts"]) == listed
    for model in ("run", "tester/pairs-bert"):
        verified = json.loads(run("verify", model, "--json").stdout)
        assert verified["ok"] and set(verified["artifacts"]) == listed

    again = run("push", "run", "tester/pairs-bert")
    assert again.stdout.strip().endswith("tester/pairs-bert")
    commits = [r for r in hub.requests if r.method == "POST" and "/models/tester/pairs-bert/commit/" in r.path]
    assert len(commits) == 1


def test_a_prompt_is_pushed_and_pulled_without_a_model(run: Run, hub: HubServer, home: Path) -> None:
    """All that is sent is adapter/, which names its checkpoint by Hub id; pulled, it answers as what was trained."""
    chosen = ["--validation", "validation_matched", "--adapter", "PROMPT_TUNING", "--push", "tester/pairs-prompt"]
    run("train", "lab/pairs", *FLAGS, *chosen, "--evaluate.no-plots", "--output", "prompt")
    result = json.loads((home / "prompt" / "result.json").read_text())
    assert result["artefacts"] == ["adapter"] and not (home / "prompt" / "model").exists()
    sent = {path: blob.content for path, blob in hub.repo("tester/pairs-prompt").at("main").files.items()}
    weights = {name for name in sent if name.endswith(".safetensors")}
    assert weights == {"adapter/adapter_model.safetensors"} and "adapter/tokenizer.json" in sent
    config = json.loads(sent["adapter/adapter_config.json"])
    assert config["base_model_name_or_path"] == "lab/tiny-bert" and config["peft_type"] == "PROMPT_TUNING"

    for model in ("prompt", "tester/pairs-prompt"):
        verified = json.loads(run("verify", model, "--json").stdout)
        assert verified["ok"] and set(verified["artifacts"]) == set(result["artifacts"])
    for model, output in (("tester/pairs-prompt", "pulled.csv"), ("prompt", "kept.csv")):
        run("predict", model, *TEST_ROWS, "--output", output)
    assert (home / "pulled.csv").read_text() == (home / "kept.csv").read_text()
    assert len((home / "pulled.csv").read_text().splitlines()) == 11
