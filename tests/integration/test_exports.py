"""Exports: every family and format, int8, and what is refused. `test_task_contract` exports every task."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers import forks
from helpers.models import classifier_on
from helpers.tiny import IMAGE_FAMILIES, tiny_esm_checkpoint, tiny_image_checkpoint, tiny_text_checkpoint
from peft import get_peft_config
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EsmTokenizer,
)

from hf_finetune.compression.config import ExportFormatName, ExportOptions, Numbers, QuantizationOptions
from hf_finetune.compression.export import check_options, export_rows
from hf_finetune.compression.export_formats import onnx as graph
from hf_finetune.compression.export_formats.choose import format_of
from hf_finetune.compression.gate import example_outputs
from hf_finetune.compression.quantization.quantize import quantize
from hf_finetune.data.long.config import MARK
from hf_finetune.errors import GateError, InputError
from hf_finetune.inference.alternatives import best_alternatives
from hf_finetune.models.config import Model
from hf_finetune.models.exported_network import OnnxNetwork
from hf_finetune.models.heads.custom import with_head
from hf_finetune.models.heads.head_file import save_head
from hf_finetune.models.loading import Loaded
from hf_finetune.models.modules import encoder
from hf_finetune.models.peft.adapters import add_adapter, save_adapter
from hf_finetune.pipeline.parity import reference_logits
from hf_finetune.tasks.trained_model import TrainedModel, load_trained

pytestmark = pytest.mark.usefixtures("gate_here")

QUICK = ExportOptions(latency=False)
TEXTS = ["a good film", "the plot of this movie is not good at all", "bad", "we like the game and the team of the year"]
# One layer: each more takes the exporter about as long as all that a test looks at. `test_task_contract` has three.
# ModernBERT's second one differs: it attends to neighbors alone.
FEWER_LAYERS = {"distilbert": {"n_layers": 1}, "modernbert": {"num_hidden_layers": 2}, "swin": {}, "convnext": {}}
FAMILIES = (
    "bert",
    "distilbert",
    "roberta",
    "deberta-v2",
    "modernbert",
    "mpnet",
    "vit",
    "swin",
    "convnext",
)


def classifier_of(family: str, folder: Path) -> TrainedModel:
    """A classifier of random weights with three classes."""
    is_image = family in IMAGE_FAMILIES
    tiny_checkpoint = tiny_image_checkpoint if is_image else tiny_text_checkpoint
    encoder = tiny_checkpoint(folder / "encoder", family, **FEWER_LAYERS.get(family, {"num_hidden_layers": 1}))
    return classifier_on(encoder, ["low", "middle", "high"])


def rows_of(classifier: TrainedModel, *, labels: bool = False) -> Dataset:
    count = 8
    label = {"label": [i % 3 for i in range(count)]} if labels else {}
    numbers = {"row": list(range(count)), **label}
    if classifier.kind == "text":
        return Dataset.from_dict({"text": [TEXTS[i % len(TEXTS)] for i in range(count)], **numbers})
    pixels = np.random.default_rng(0).integers(0, 256, (count, 40, 40, 3), dtype=np.uint8)
    return Dataset.from_dict({"image": [datasets.Image().encode_example(each) for each in pixels], **numbers})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family(family: str, tmp_path: Path) -> None:
    classifier = classifier_of(family, tmp_path)
    exported = export_rows(classifier, rows_of(classifier), tmp_path / "onnx", QUICK)
    gate = exported.document["gate"]
    assert gate["example"]["ok"] and gate["max_abs_difference"] < 1e-5 and gate["label_agreement"] == 1
    assert not list(tmp_path.glob(".*")), "nothing half-written"
    if family == "vit":
        check_deep_grays(classifier, exported.folder, tmp_path)


def check_deep_grays(classifier: TrainedModel, exported: Path, folder: Path) -> None:
    """The example scales gray values of 16 bits and floats as `predict` does: Pillow would clip them to white."""
    gray = np.random.default_rng(0).integers(0, 65536, (40, 40))
    values = {
        "16-bit.png": gray.astype(np.uint16),
        "16-bit.tif": gray.astype(np.int32),
        "8-bit.tif": (gray // 257).astype(np.int32),
        "shares.tif": (gray / 65535).astype(np.float32),
        "nan.tif": np.where(gray < 9999, np.nan, gray / 257).astype(np.float32),
    }
    for name, pixels in values.items():
        Image.fromarray(pixels).save(folder / name)
    files = [str(folder / name) for name in values]
    rows = Dataset.from_dict({"image": [{"bytes": Path(file).read_bytes(), "path": None} for file in files]})
    expected_NC = reference_logits(classifier.model, classifier.inputs, rows)
    assert np.abs(np.stack(example_outputs(exported, files, "logits")) - expected_NC).max() < 1e-5


@pytest.mark.parametrize("way", [{"type": "Sliding", "stride": 2}, {"type": "HeadTail"}, {"type": "Chunk"}])
def test_long_texts(way: dict[str, Any], tmp_path: Path) -> None:
    """The example reads them as the model does; chunks are combined by attention, after a GRU over their tokens."""
    model = classifier_of("bert", tmp_path).model
    folder = tmp_path / "model"
    if way == {"type": "Chunk"}:
        folder = tmp_path / "run" / "encoder"
        custom = with_head(Loaded(model, (), ()), Model(checkpoint="x", head="gru"), "attention").model
        with torch.no_grad():
            for weight in (custom.chunk_pooling.query, *custom.head.parameters()):
                weight.normal_()
        save_head(custom, tmp_path / "run" / "head.safetensors", "text-classification")
        encoder(custom).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tmp_path / "encoder").save_pretrained(folder)
    for name, fields in (
        ("config", {MARK: way}),
        ("tokenizer_config", {"model_max_length": 8}),
    ):
        path = folder / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    classifier = load_trained(str(folder if folder.parent == tmp_path else folder.parent))
    rows = rows_of(classifier)
    lengths = [*map(len, classifier.inputs.encode(rows)["input_ids"])]
    assert max(lengths) == 8 if way["type"] == "HeadTail" else max(lengths) > 8
    gate = export_rows(classifier, rows, tmp_path / "onnx", QUICK).document["gate"]
    assert gate["max_abs_difference"] < 1e-5 and gate["example"]["ok"]


@pytest.mark.parametrize(
    ("format", "weights", "family", "largest"),
    [
        ("openvino", "float32", "bert", 1e-5),
        ("openvino", "float16", "modernbert", 0.003),
        ("openvino", "int8-static", "bert", 0.05),
        ("torch", "float32", "mpnet", 1e-5),
        ("torch", "bfloat16", "vit", 0.03),
        ("safetensors", "bfloat16", "bert", 0.01),
    ],
)
def test_a_format(format: ExportFormatName, weights: Numbers, family: str, largest: float, tmp_path: Path) -> None:
    """Of another program than ONNX Runtime. Rounded weights change the logits, by less than a wrong graph does."""
    if format != "openvino":
        check_a_format(format, weights, family, largest, tmp_path)
        return
    pytest.importorskip("openvino")
    # A training after these in the same process ends in a segmentation fault, see docs/limits.md.
    arguments = f"{format!r}, {weights!r}, {family!r}, {largest!r}, pathlib.Path({str(tmp_path)!r})"
    code = (
        f"import pathlib, sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from helpers import gate\nfrom test_exports import check_a_format\n"
        f"gate.run_here()\ncheck_a_format({arguments})"
    )
    ended = forks.run(code)
    assert ended.returncode == 0, ended.stderr[-3000:]


def check_a_format(format: ExportFormatName, weights: Numbers, family: str, largest: float, tmp_path: Path) -> None:
    """Export a tiny network, and read it again."""
    classifier = classifier_of(family, tmp_path)
    options = ExportOptions(format, weights, max_loss=100, latency=False)
    exported = export_rows(classifier, rows_of(classifier, labels=True), None, options)
    assert exported.folder == tmp_path / "model" / options.folder
    document = exported.document
    assert document["gate"]["example"]["ok"] and document["gate"]["max_abs_difference"] < largest
    assert document["format"] == format
    stored = exported.folder / format_of(options).files[-1]
    if format != "torch" and weights != "float32":
        assert stored.stat().st_size < document["bytes"]["model"]
    if format == "torch":
        with pytest.raises(InputError, match="--docker: expected --format onnx, openvino or safetensors"):
            exported.write_dockerfile()
    else:
        assert load_trained(str(exported.folder)).labels == classifier.labels


@pytest.mark.parametrize("head", ["stock", "mean of a hidden layer"])
def test_sentence_transformers(head: str, tmp_path: Path) -> None:
    """Its embeddings are ours: of a stock head after its hidden layer, of a head of one's own after pooling."""
    pytest.importorskip("sentence_transformers")
    classifier = classifier_of("bert", tmp_path)
    if head != "stock":
        custom = with_head(Loaded(classifier.model, (), ()), Model(checkpoint="x", pooling="mean", head="mlp")).model
        save_head(custom, tmp_path / "run" / "head.safetensors", "text-classification")
        encoder(custom).save_pretrained(tmp_path / "run" / "encoder")
        AutoTokenizer.from_pretrained(tmp_path / "encoder").save_pretrained(tmp_path / "run" / "encoder")
        classifier = load_trained(str(tmp_path / "run"))
    options = ExportOptions("sentence-transformers")
    exported = export_rows(classifier, rows_of(classifier), tmp_path / "search", options)
    assert 0 < exported.document["gate"]["max_abs_difference"] < 1e-5 and "embeddings within" in str(exported)
    with pytest.raises(InputError, match="expected float32 with --format sentence-transformers"):
        check_options(ExportOptions("sentence-transformers", "bfloat16"))


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("modernbert", {}, "no pooling and layer like those of its head; expected --format onnx, openvino or torch"),
        ("bert", {"pairs": True}, "embeds single texts, and this model reads pairs"),
        ("vit", {}, "embeds whole texts, not images or words"),
    ],
)
def test_encoders_that_sentence_transformers_lacks(
    family: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    classifier = replace(classifier_of(family, tmp_path), **fields)
    with pytest.raises(InputError, match=message):
        export_rows(classifier, rows_of(classifier), tmp_path / "search", ExportOptions("sentence-transformers"))
    assert not (tmp_path / "search").exists()


def test_combinations_that_are_refused() -> None:
    for options, message in (
        (
            ExportOptions("openvino", "int4-weights"),
            "--weights int4-weights: expected float32, float16, bfloat16, int8-static with --format openvino",
        ),
        (ExportOptions("safetensors"), "--weights float32: expected bfloat16 with --format safetensors"),
        (
            ExportOptions("torch", docker=True),
            "--docker: expected --format onnx, openvino or safetensors with it, got torch",
        ),
        (
            ExportOptions("openvino", "float16", quantization=QuantizationOptions(float_layers=1)),
            "--quantization.float-layers: expected --weights int8, int4 or float16 of onnx, got float16",
        ),
    ):
        with pytest.raises(InputError) as caught:
            check_options(options)
        assert str(caught.value) == message


@pytest.mark.parametrize("kind", ["LORA", "PROMPT_TUNING"])
def test_an_adapter_alone(kind: str, tmp_path: Path) -> None:
    """LoRA is merged, a prompt becomes a part of the graph."""
    source = classifier_of("distilbert", tmp_path)
    config = get_peft_config({"peft_type": kind, "num_virtual_tokens": 3} if "PROMPT" in kind else {"peft_type": kind})
    adapted = add_adapter(source.model, config, ("classifier",))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name or "prompt" in name:
                weight.normal_()
    save_adapter(adapted, tmp_path / "run" / "adapter")
    saved = source.model.config
    saved.save_pretrained(tmp_path / "run" / "adapter")
    AutoTokenizer.from_pretrained(tmp_path / "encoder").save_pretrained(tmp_path / "run" / "adapter")
    classifier = load_trained(str(tmp_path / "run"))
    exported = export_rows(classifier, rows_of(classifier), tmp_path / "onnx", QUICK)
    assert exported.document["gate"]["max_abs_difference"] < 1e-5
    assert not (exported.folder / "adapter_config.json").exists()
    assert b"lora_A" not in (exported.folder / "model.onnx").read_bytes()
    if kind == "PROMPT_TUNING":
        with pytest.raises(InputError, match="the adapter of this model cannot be merged; expected --format onnx"):
            export_rows(classifier, rows_of(classifier), tmp_path / "search", ExportOptions("sentence-transformers"))


def test_proteins(tmp_path: Path) -> None:
    """ESM has no tokenizer.json: the export has."""
    folder = tiny_esm_checkpoint(tmp_path / "esm")
    config = AutoConfig.from_pretrained(folder, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(folder, config=config).save_pretrained(tmp_path / "model")
    EsmTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "model")
    texts = ["MKTAYIAKQR", "MKV", "ACDEFGHIKLMNPQRSTVWY", "MWWX-"]
    exported = export_rows(
        load_trained(str(tmp_path / "model")), Dataset.from_dict({"text": texts}), tmp_path / "onnx", QUICK
    )
    assert exported.document["gate"]["example"]["ok"] and (exported.folder / "tokenizer.json").is_file()


def test_int8(tmp_path: Path) -> None:
    classifier = classifier_of("bert", tmp_path)
    rows = rows_of(classifier, labels=True)
    options = ExportOptions(weights="int8", max_loss=100, latency=True, docker=True)
    document = export_rows(classifier, rows, tmp_path / "onnx", options).document
    assert 0 < document["gate"]["max_abs_difference"] < 0.03 and document["gate"]["example"]["ok"]
    assert {*document["latency"]} == {"model", "onnx"} and document["latency"]["onnx"][0]["p50_ms"] > 0
    assert {"Dockerfile", ".dockerignore"} <= {path.name for path in (tmp_path / "onnx").iterdir()}
    # The example is a program of its own.
    command = [sys.executable, tmp_path / "onnx" / "example.py", "a good film"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip() in {f"a good film: {name}" for name in classifier.labels}

    graph_file = tmp_path / "onnx" / "model.onnx"
    graph_file.write_bytes(graph_file.read_bytes() + b" ")
    with pytest.raises(GateError, match="not the file that was written"):
        load_trained(str(tmp_path / "onnx"))


def test_number_formats(tmp_path: Path) -> None:
    """Each rounds the logits, by no more than four times what was measured: less than a wrong graph changes them."""
    classifier = classifier_of("bert", tmp_path)
    rows, whole, path = rows_of(classifier), tmp_path / "whole.onnx", tmp_path / "rounded.onnx"
    graph.write_graph(classifier, rows, whole)
    assert not classifier.model.training
    batch = dict(classifier.inputs.tokenizer(TEXTS, padding=True, return_tensors="pt"))  # type: ignore[union-attr]
    with torch.no_grad():
        expected = classifier.model(**batch).logits
    formats: list[tuple[Numbers, QuantizationOptions, float]] = [
        ("int8", QuantizationOptions(smooth=0.5, float_layers=2), 0.05),
        ("int8-static", QuantizationOptions(), 0.05),
        ("int8-static", QuantizationOptions(calibration="percentile"), 0.05),
        ("int8-static", QuantizationOptions(calibration="entropy"), 0.05),
        ("int8-weights", QuantizationOptions(), 0.008),
        ("int4-weights", QuantizationOptions(), 0.2),
        ("float16", QuantizationOptions(), 0.003),
    ]
    for weights, chosen, largest in formats:
        report = quantize(classifier, whole, path, ExportOptions(weights=weights, quantization=chosen), rows)
        change = (OnnxNetwork(path)(**batch).logits - expected).abs().max() / expected.abs().max()
        assert 0 < change < largest, (weights, chosen, change)
        assert path.stat().st_size < whole.stat().st_size
        kept = report.get("float_layers", ())
        assert len(kept) == chosen.float_layers and all(".layer." in name for name in kept)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_permuted_head_is_caught(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = classifier_of("bert", tmp_path)
    rows = rows_of(classifier, labels=True)
    inputs = classifier.inputs
    predicted = [
        classifier.model(**inputs.tokenizer(text, return_tensors="pt")).logits.argmax().item() for text in rows["text"]
    ]  # type: ignore[union-attr]
    rows = rows.remove_columns("label").add_column("label", predicted)
    write = graph.write_graph

    def write_permuted(source: TrainedModel, *arguments: object) -> None:
        layer = source.model.classifier
        kept = layer.weight.data.clone(), layer.bias.data.clone()
        layer.weight.data, layer.bias.data = kept[0].roll(1, 0), kept[1].roll(1, 0)
        write(source, *arguments)  # type: ignore[arg-type]
        layer.weight.data, layer.bias.data = kept

    monkeypatch.setattr(graph, "write_graph", write_permuted)
    with pytest.raises(
        GateError, match="differ by" if weights == "float32" else "int8 loses more than .*: -100.00 points"
    ):
        export_rows(classifier, rows, tmp_path / "onnx", ExportOptions(weights=weights, latency=False))  # type: ignore[arg-type]
    assert not (tmp_path / "onnx").exists() and not list(tmp_path.glob(".*"))


def test_a_format_that_loses_too_much_names_the_two_best_ones(tmp_path: Path) -> None:
    classifier = classifier_of("bert", tmp_path)
    rows = rows_of(classifier, labels=True)
    refused = ExportOptions(weights="int8-static", max_loss=1e-9, latency=False)
    said = best_alternatives(classifier, rows, refused, lambda options: rows)
    assert re.fullmatch(
        r"the closest of the others: --weights int8 \(\+0.00 points of accuracy \[.*\], \d+\.\d MB\) and "
        r"--weights int8 --quantization.float-layers 4 \(.*\); float32 loses nothing",
        said,
    )


def test_a_folder_with_other_files_is_kept(tmp_path: Path) -> None:
    classifier = classifier_of("bert", tmp_path)
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="other files than an export"):
        export_rows(classifier, rows_of(classifier), tmp_path / "onnx", QUICK)
    assert (tmp_path / "onnx" / "notes.txt").read_text() == "mine"
