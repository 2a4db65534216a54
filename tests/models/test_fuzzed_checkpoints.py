"""Checkpoints and adapters with any other value or byte in any of their files serve, or are refused in one line."""

from __future__ import annotations

import json
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.checkpoints import load_classifier, load_image_processor, load_tokenizer
from helpers.fuzz import DAMAGES, Damage, edits, fuzzed, result_or_one_line
from helpers.small_runs import image_rows
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftConfig, PromptEncoderConfig, PromptTuningConfig
from safetensors.torch import load_file, save_file

from hf_finetune.data.inputs import ImageInputs, TextInputs
from hf_finetune.errors import RunError
from hf_finetune.inference.scoring import probabilities
from hf_finetune.models.peft.adapters import add_adapter, save_adapter
from hf_finetune.tasks.trained_model import load_trained
from hf_finetune.training.first_row import check_first_row

LABELS = ["bad", "good"]
TEXTS = ["a good film", "bad"]
MOST_SECONDS = 10.0
"""Of the processor."""
NAMES = ["auto_map", "quantization_config", "trust_remote_code", "pruned_heads", "torch_dtype", "_attn_implementation"]
NAMES += ["tie_word_embeddings", "use_cache", "is_encoder_decoder", "add_cross_attention", "num_labels", "return_dict"]
NAMES += [
    "output_attentions",
    "output_hidden_states",
    "chunk_size_feed_forward",
    "problem_type",
    "transformers_version",
]
NAMES += [
    "vocab_file",
    "tokenizer_file",
    "special_tokens_map_file",
    "chat_template",
    "model_max_length",
    "padding_side",
]
NAMES += [
    "extra_special_tokens",
    "added_tokens_decoder",
    "truncation_side",
    "crop_size",
    "resample",
    "do_pad",
    "label2id",
]
"""Fields that the libraries know, and that a file may not have yet."""


def logits_of_text(folder: Path) -> np.ndarray:
    """Take the steps of a run with a text checkpoint."""
    tokenizer = load_tokenizer(folder, max_length=32, sample=TEXTS)
    model = load_classifier(folder, task="text-classification", labels=LABELS).model.eval()
    check_first_row(str(folder), model, TextInputs(tokenizer, 32))
    with torch.no_grad():
        return model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.numpy()


def logits_of_images(folder: Path) -> np.ndarray:
    """Take the steps of a run with an image checkpoint."""
    inputs = ImageInputs(load_image_processor(folder))
    model = load_classifier(folder, task="image-classification", labels=LABELS).model.eval()
    check_first_row(str(folder), model, inputs)
    batch = inputs.collate({"image": image_rows(2)["image"][:], "label": [0, 1]})
    with torch.no_grad():
        return model(pixel_values=batch["pixel_values"]).logits.numpy()


def predict_texts(folder: Path) -> np.ndarray:
    """Take the steps of `predict` with a text classifier."""
    rows = Dataset.from_dict({"text": TEXTS, "row": range(len(TEXTS))})
    return probabilities(load_trained(str(folder)), rows)


def predict_images(folder: Path) -> np.ndarray:
    """Take the steps of `predict` with an image classifier."""
    return probabilities(load_trained(str(folder)), image_rows(2).remove_columns("label"))


ADAPTERS: dict[str, PeftConfig] = {
    "prompt": PromptTuningConfig(num_virtual_tokens=4),
    "p_tuning": PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=8),
    "lora": LoraConfig(r=2),
}
USES: dict[str, Callable[[Path], np.ndarray]] = {
    "bert": logits_of_text,
    "distilbert": logits_of_text,
    "vit": logits_of_images,
    "trained bert": predict_texts,
    "trained vit": predict_images,
    **dict.fromkeys(ADAPTERS, predict_texts),
}


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Undamaged folders of all `USES`."""
    home = tmp_path_factory.mktemp("whole")
    for name, make in (
        ("bert", tiny_text_checkpoint),
        ("distilbert", tiny_text_checkpoint),
        ("vit", tiny_image_checkpoint),
    ):
        make(home / name, name)
    for name in ("bert", "vit"):
        folder, task = home / f"trained {name}", "image-classification" if name == "vit" else "text-classification"
        load_classifier(home / name, task=task, labels=LABELS).model.save_pretrained(folder)
        processor = (
            load_image_processor(home / name)
            if name == "vit"
            else load_tokenizer(home / name, max_length=32, sample=TEXTS)
        )
        processor.save_pretrained(folder)
    for name, config in ADAPTERS.items():
        loaded = load_classifier(home / "bert", task="text-classification", labels=LABELS)
        loaded.model.config.save_pretrained(home / name / "adapter")
        save_adapter(add_adapter(loaded.model, config, loaded.fresh), home / name / "adapter")
        load_tokenizer(home / "bert", max_length=32, sample=TEXTS).save_pretrained(home / name / "adapter")
    return home


def files_of(name: str) -> Path:
    return Path("adapter") if name in ADAPTERS else Path()


def try_changed(
    home: Path, tmp_path_factory: pytest.TempPathFactory, name: str, change: Callable[[Path], None]
) -> None:
    """Use a copy whose files are changed: values without NaN, or one line, in little time."""
    folder = tmp_path_factory.mktemp("changed") / "it"
    shutil.copytree(home / name, folder)
    change(folder / files_of(name))
    started = time.process_time()
    values = result_or_one_line(lambda: USES[name](folder), RunError)
    assert time.process_time() - started < MOST_SECONDS
    if values is not None and USES[name] in (predict_texts, predict_images):
        assert np.isfinite(values).all() and values.shape[0] == 2
    shutil.rmtree(folder.parent)


DOCUMENTS = [
    "config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "preprocessor_config.json",
    "adapter_config.json",
]
WITH_DOCUMENT = [
    (name, document)
    for name in USES
    for document in DOCUMENTS
    if not (document.startswith("tokenizer") and "vit" in name)
    and not (document == "preprocessor_config.json" and "vit" not in name)
    and (document == "adapter_config.json") <= (name in ADAPTERS)
]


@fuzzed(10)
@given(place=st.sampled_from(WITH_DOCUMENT), data=st.data())
def test_any_value_in_a_document(
    home: Path, tmp_path_factory: pytest.TempPathFactory, place: tuple[str, str], data: st.DataObject
) -> None:
    name, document = place
    content = json.loads((home / name / files_of(name) / document).read_text())
    # A vocabulary would be nearly all that is drawn from.
    vocabulary = content["model"].pop("vocab") if document == "tokenizer.json" else {}
    changed = data.draw(edits(content, NAMES))
    if vocabulary and isinstance(changed, dict) and isinstance(changed.get("model"), dict):
        changed["model"] = {"vocab": vocabulary} | changed["model"]

    def change(folder: Path) -> None:
        (folder / document).write_text(json.dumps(changed))

    try_changed(home, tmp_path_factory, name, change)


@fuzzed(6)
@given(name=st.sampled_from(sorted(USES)), file=st.integers(0, 5), damage=DAMAGES)
def test_any_byte_of_a_checkpoint(
    home: Path, tmp_path_factory: pytest.TempPathFactory, name: str, file: int, damage: Damage
) -> None:
    def change(folder: Path) -> None:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        path = files[file % len(files)]
        path.write_bytes(damage(path.read_bytes()))

    try_changed(home, tmp_path_factory, name, change)


def weights_of(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


@fuzzed(6)
@given(name=st.sampled_from(sorted(USES)), data=st.data())
def test_any_value_in_a_header_of_weights(
    home: Path, tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    content = weights_of(home / name / files_of(name)).read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    changed = json.dumps(data.draw(edits(json.loads(content[8 : 8 + size]), NAMES))).encode()

    def change(folder: Path) -> None:
        weights_of(folder).write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + size :])

    try_changed(home, tmp_path_factory, name, change)


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor | None]] = {
    "missing": lambda tensor: None,
    "NaN": lambda tensor: tensor.fill_(float("nan")),
    "infinite": lambda tensor: tensor.fill_(float("inf")),
    "huge": lambda tensor: tensor.fill_(3e38),
    "another shape": lambda tensor: tensor.flatten()[1:].clone(),
    "one more dimension": lambda tensor: tensor[None].clone(),
    "a scalar": lambda tensor: torch.tensor(1.0),
    "empty": lambda tensor: tensor.flatten()[:0].clone(),
    "transposed": lambda tensor: tensor.T.contiguous() if tensor.ndim == 2 else tensor,
    "float16": lambda tensor: tensor.half(),
    "float64": lambda tensor: tensor.double(),
    "whole numbers": lambda tensor: tensor.to(torch.int32),
    "truth values": lambda tensor: tensor.bool(),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "float8": lambda tensor: tensor.to(torch.float8_e4m3fn),
}


@fuzzed(6)
@given(name=st.sampled_from(sorted(USES)), data=st.data())
def test_any_tensor_of_weights_changed(
    home: Path, tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    tensors = load_file(weights_of(home / name / files_of(name)))
    for tensor_name in data.draw(st.lists(st.sampled_from(sorted(tensors)), min_size=1, max_size=3, unique=True)):
        what = data.draw(st.sampled_from(["renamed", "added", *CHANGES]))
        if what in CHANGES:
            changed = CHANGES[what](tensors[tensor_name].clone())
            tensors |= {} if changed is None else {tensor_name: changed}
            if changed is None:
                del tensors[tensor_name]
        else:
            other = data.draw(st.sampled_from(["x", "classifier.weight", "base_model.x", f"{tensor_name}.x", ""]))
            tensors[other] = tensors.pop(tensor_name) if what == "renamed" else tensors[tensor_name].clone()
    try_changed(
        home, tmp_path_factory, name, lambda folder: save_file(tensors, weights_of(folder), metadata={"format": "pt"})
    )
