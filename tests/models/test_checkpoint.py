"""Checkpoints that run code, read other files, or are broken are refused in one line before they are loaded."""

import errno
import json
import pickle
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import load_classifier, load_tokenizer, refused
from helpers.damage import Payload
from helpers.tiny import tiny_text_checkpoint
from transformers import AutoModel

from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint import find_checkpoint, inspect_checkpoint, unmerged_adapter
from hf_finetune.models.checkpoint_config import class_names


def edit(path: Path, **entries) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | entries))


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
