"""encoder/ and head.safetensors: round trip, and refusal of foreign files."""

import json
from pathlib import Path

import pytest
import torch
from helpers.heads import with_head
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from hf_finetune.errors import InputError
from hf_finetune.hub import plain_loading
from hf_finetune.models.heads.head_file import load_custom_head, save_head
from hf_finetune.models.modules import encoder

CASES = [
    ("bert", {"pooling": "mean"}),
    ("roberta", {"pooling": "max", "last_layers": 2}),
    ("electra", {"pooling": "attention", "last_layers": 3, "head": "mlp", "head_width": 7}),
    ("distilbert", {"pooling": "cls", "head": "linear"}),
    ("modernbert", {"pooling": "attention", "head": "mlp"}),
    ("albert", {"pooling": "mean", "last_layers": 2, "head": "mlp", "head_activation": "relu"}),
    ("bert", {"pooling": "max", "head": "lstm", "head_width": 5}),
    ("distilbert", {"pooling": "attention", "head": "gru", "last_layers": 2}),
    ("modernbert", {"pooling": "mean", "head": "convolution"}),
    ("vit", {"pooling": "mean", "last_layers": 2}),
    ("deit", {"pooling": "attention"}),
    ("dinov2", {"pooling": "max", "head": "mlp"}),
    ("beit", {"pooling": "attention"}),
    ("swin", {"pooling": "max"}),
    ("convnext", {"pooling": "max"}),
    ("resnet", {"pooling": "attention", "head": "mlp"}),
]


def saved(classifier, folder: Path, family: str, options: dict):
    model = with_head(classifier(family), **options).model.eval()
    with torch.no_grad():
        for parameter in [*model.head.parameters(), *model.pooling.parameters()]:
            parameter.normal_(std=0.3)
    encoder(model).save_pretrained(folder / "encoder")
    task = "text-classification" if model.main_input_name == "input_ids" else "image-classification"
    save_head(model, folder / "head.safetensors", task)
    return model, task


@pytest.mark.parametrize(("family", "options"), CASES)
def test_round_trip_with_and_without_this_package(family: str, options: dict, classifier, inputs, tmp_path) -> None:
    """With `load_custom_head`, and with plain AutoModel and the function of the parity gate and the card."""
    model, task = saved(classifier, tmp_path, family, options)
    again, its_task, labels = load_custom_head(tmp_path)
    assert (its_task, labels) == (task, ("bad", "good", "so-so"))
    plain = AutoModel.from_pretrained(tmp_path / "encoder", attn_implementation="eager").eval()
    with torch.no_grad():
        expected = model(**inputs(family)).logits
        assert torch.equal(again(**inputs(family)).logits, expected)
        actual = plain_loading.head_logits(plain, inputs(family), tmp_path / "head.safetensors")
    assert torch.allclose(actual, expected, atol=1e-5)
    with safe_open(tmp_path / "head.safetensors", "pt") as file:
        header = file.metadata()
    assert header["pooling"] == options["pooling"] and json.loads(header["labels"]) == list(labels)
    content = (tmp_path / "head.safetensors").read_bytes()
    save_head(model, tmp_path / "head.safetensors", task)
    assert (tmp_path / "head.safetensors").read_bytes() == content, "the same head has the same bytes"
    assert json.loads((tmp_path / "encoder" / "config.json").read_text())["architectures"] == [type(plain).__name__]


def change_header(path: Path, **changes: str) -> None:
    with safe_open(path, "pt") as file:
        header = file.metadata() | changes
    save_file(load_file(path), path, header)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "its header is not one of"),
        ({"pooling": "__import__"}, "its header is not one of"),
        ({"activation": "eval"}, "its header is not one of"),
        ({"network": "gru"}, "its header is not one of"),
        ({"network": "rnn", "format": "hf_finetune head 3"}, "its header is not one of"),
        ({"network": "gru", "format": "hf_finetune head 3"}, "does not fit the encoder"),
        ({"labels": "["}, "its header cannot be read"),
        ({"last_layers": "many"}, "its header cannot be read"),
        ({"last_layers": "2"}, "does not fit the encoder"),
    ],
)
def test_foreign_headers_are_refused(changes: dict, message: str, classifier, tmp_path) -> None:
    saved(classifier, tmp_path, "bert", {"pooling": "mean"})
    change_header(tmp_path / "head.safetensors", **changes)
    with pytest.raises(InputError, match=f"head.safetensors: {message}"):
        load_custom_head(tmp_path)


def test_damaged_files_are_refused(classifier, tmp_path) -> None:
    saved(classifier, tmp_path, "bert", {"pooling": "mean"})
    weights = load_file(tmp_path / "encoder" / "model.safetensors")
    lost = next(name for name in weights if "layer.0" in name)
    save_file({n: t for n, t in weights.items() if n != lost}, tmp_path / "encoder" / "model.safetensors")
    with pytest.raises(InputError, match="encoder: weights are missing"):
        load_custom_head(tmp_path)
    (tmp_path / "head.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"head\.safetensors: expected the head of a finished run"):
        load_custom_head(tmp_path)
