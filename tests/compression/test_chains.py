"""The candidates of `compress`."""

from __future__ import annotations

from pathlib import Path

from helpers.models import classifier_on
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint

from hf_finetune.compression.chains import chains_of, in_other_formats
from hf_finetune.compression.formats import Onnx, Safetensors
from hf_finetune.compression.pruning.feed_forward import PruneFeedForward
from hf_finetune.compression.pruning.layers import PruneLayers
from hf_finetune.compression.steps import Chain
from hf_finetune.tasks.trained_model import TrainedModel


def classifier(folder: Path, *, image: bool) -> TrainedModel:
    encoder = (tiny_image_checkpoint if image else tiny_text_checkpoint)(folder / "encoder", num_hidden_layers=4)
    return classifier_on(encoder, ["low", "high"])


def test_texts_are_pruned_in_all_ways(tmp_path: Path) -> None:
    trained = classifier(tmp_path, image=False)
    names = [chain.name for chain in chains_of(trained)]
    assert names[:3] == [
        "onnx-int8",
        "vocabulary+onnx-int8",
        "vocabulary+feed-forward+layers+distill+onnx-int8",
    ]
    assert len(names) == len(set(names)) and all(chain.refusal(trained) is None for chain in chains_of(trained))


def test_images_have_no_vocabulary(tmp_path: Path) -> None:
    trained = classifier(tmp_path, image=True)
    reasons = {chain.name: chain.refusal(trained) for chain in chains_of(trained)}
    assert reasons["feed-forward+layers-2+distill+onnx-int8"] is None
    refused = {name: reason for name, reason in reasons.items() if reason is not None}
    assert refused == {"vocabulary+float32": "it classifies images, which have no vocabulary"}


def test_a_chain_that_removes_more() -> None:
    layers, int8 = PruneLayers(drop=2), Onnx("int8")
    narrow = Chain((PruneFeedForward(),), int8)
    shorter, shortest = (Chain((PruneFeedForward(), each), int8) for each in (layers, PruneLayers(drop=3)))
    assert shorter.removes_more_than(narrow) and shortest.removes_more_than(shorter)
    assert not narrow.removes_more_than(shorter) and not shorter.removes_more_than(shorter)
    assert not Chain((layers,), int8).removes_more_than(narrow)
    assert not Chain(shorter.steps, Safetensors()).removes_more_than(narrow), "another format"


def test_the_best_network_in_other_formats() -> None:
    best = Chain((PruneLayers(),), Onnx("int8"))
    names = [chain.name for chain in in_other_formats(best, is_size_limited=True)]
    assert names == ["layers+onnx-int8-static", "layers+onnx-int8-smooth", "layers+float32", "layers+onnx-int4-weights"]
    assert len(in_other_formats(Chain((), Onnx("int8")), is_size_limited=False)) == 2, "the source is no candidate"


def test_a_name_says_what_differs_from_the_default() -> None:
    assert Chain((PruneLayers(),), Safetensors()).name == "layers+float32"
    assert Chain((PruneLayers(drop=3),), Onnx("int8")).name == "layers-3+onnx-int8"
    assert Chain((), Safetensors()).lossy is False and Chain((PruneLayers(),), Safetensors()).lossy
