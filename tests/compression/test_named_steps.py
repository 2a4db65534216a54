"""Steps that a user names, and networks that only a graph stores."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from helpers.checkpoints import load_classifier, refusal
from helpers.models import randomized
from helpers.tiny import tiny_text_checkpoint
from transformers import AutoTokenizer

from hf_finetune.compression.formats import Onnx, Safetensors
from hf_finetune.compression.named_steps import STEPS, named_chains
from hf_finetune.compression.pruning.feed_forward import PruneFeedForward
from hf_finetune.compression.pruning.gradual import PruneGradually
from hf_finetune.compression.pruning.heads import PruneHeads
from hf_finetune.compression.pruning.layers import PruneLayers
from hf_finetune.compression.pruning.vocabulary import TrimVocabulary
from hf_finetune.compression.steps import Step, StepRows
from hf_finetune.data.inputs import TextInputs
from hf_finetune.errors import InputError
from hf_finetune.inference.compressing.trial import Trials
from hf_finetune.pipeline.parity import reference_logits
from hf_finetune.tasks.single_label import SingleLabel
from hf_finetune.tasks.trained_model import TrainedModel, load_trained


def steps_of(text: str) -> tuple[Step, ...]:
    (steps,) = {chain.steps for chain in named_chains(text)}
    return steps


def test_names_and_numbers() -> None:
    steps = steps_of("vocabulary, feed-forward=0.3,layers=2")
    assert steps == (TrimVocabulary(), PruneFeedForward(share=0.3), PruneLayers(drop=2))
    for name, (step, field) in STEPS.items():
        number = 2 if name in ("vocabulary", "layers", "distill") else 0.3
        assert steps_of(name) == (step,) and step.label == name
        assert getattr(steps_of(f"{name}={number}")[0], field) == number
    movement, gates = steps_of("feed-forward-movement,heads-gates=0.3")
    assert movement == PruneGradually() and gates == PruneGradually(part="heads", score="gates", share=0.3)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("heads", ["heads+onnx-int8", "heads+onnx", "heads+float32"]),
        ("layers,int8-static", ["layers+onnx-int8-static"]),
        ("layers,int8=0.5", ["layers+onnx-int8-smooth"]),
        ("layers,float32", ["layers+float32"]),
        ("float16", ["onnx-float16"]),
    ],
)
def test_the_last_name_may_be_a_number_format(text: str, names: list[str]) -> None:
    assert [chain.name for chain in named_chains(text)] == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("feedforward", "--steps: 'feedforward' is no step, did you mean 'feed-forward'?"),
        ("layers=two", "--steps: layers: expected a number after =, got 'two'"),
        ("heads,heads=0.2", "--steps: heads: expected each step once, got it 2 times"),
        ("feed-forward=2", "PruneFeedForward.share: expected"),
        ("layers=0.5", "PruneLayers.drop: expected"),
        ("int8=2", "Onnx.smooth: expected"),
        ("float16=0.5", "--steps: float16: expected no number after it, got '0.5'"),
        ("int8,layers", "--steps: int8: expected a number format at the end alone"),
        ("", "--steps: '' is no step; known: vocabulary, "),
        ("qat-int8=2,qat-int4", "--steps: qat-int8: expected it as the last step, got qat-int4 after it"),
        ("qat-int4,layers=2,distill,int8", "--steps: qat-int4: expected it as the last step, got layers after it"),
    ],
)
def test_what_is_no_step(text: str, message: str) -> None:
    assert refusal(lambda: named_chains(text)).startswith(message)


def test_a_network_that_no_config_describes_is_a_graph(tmp_path: Path) -> None:
    folder = tiny_text_checkpoint(tmp_path / "bert", "bert")
    model = randomized(load_classifier(folder, task="text-classification", labels=["no", "yes"]).model)
    source = TrainedModel(
        model=model, inputs=TextInputs(AutoTokenizer.from_pretrained(folder), 64), task=SingleLabel(("no", "yes"))
    )
    texts = ["a good film", "the worst game of the season", "they win"]
    rows = Dataset.from_dict({"text": texts, "row": [0, 1, 2]})
    step_rows = StepRows(rows, rows, source)
    parts: Any = {"rows": SimpleNamespace(steps=step_rows), "gate": None, "measurements": None}
    trials = Trials(source=source, folder=tmp_path / "compressed", **parts)
    pruned = trials._network((PruneHeads(),), None)
    assert trials._network((PruneHeads(),), None) is pruned

    with pytest.raises(InputError, match=r"only a graph stores it: .*query.weight has shape \(16, 32\)"):
        Safetensors().write(pruned, step_rows, tmp_path)
    graph = tmp_path / "onnx"
    graph.mkdir()
    Onnx().write(pruned, step_rows, graph)
    exported, encoded = load_trained(str(graph)), source.inputs.encode(rows)
    expected, found = (reference_logits(each.model, source.inputs, encoded) for each in (pruned, exported))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
