"""Whole runs whose head no stock class has: saved as an encoder and its head, used, pushed, pulled, resumed."""

import csv
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import forks
from helpers.hub_server import HubServer
from helpers.small_runs import image_rows, small_recipe, stop_after, text_rows
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from hf_finetune import Evaluate, ImageData, Launch, Model, Precision, Recipe, Train
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.inference.scoring import probabilities
from hf_finetune.pipeline import run as pipeline
from hf_finetune.pipeline.parity import reference_logits
from hf_finetune.tasks.trained_model import load_trained


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("input"))


def reading(recipe: Recipe, **changes: object) -> Recipe:
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, **changes))


def snippet_of(card: str) -> str:
    """The Python of "How to use"."""
    return re.search(r"```python\n(.*?)```", card.partition("## How to use")[2], re.DOTALL)[1]


def test_from_the_command_line_to_the_hub_and_back(
    tmp_path: Path, hub: HubServer, hub_environment: dict[str, str]
) -> None:
    """Trained, pushed, pulled back equal; `predict` from the Hub, and the card's own lines, give one answer."""
    bert = tiny_text_checkpoint(tmp_path / "bert")
    with (tmp_path / "train.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["text", "label"])
        lines.writerows((row["text"], ("bad", "good")[row["label"]]) for row in text_rows(60))
    environment = hub_environment | {"HF_FINETUNE_CACHE": str(tmp_path / "store")}

    def ours(*command: str | Path) -> str:
        answer = forks.run(forks.COMMAND_WITHOUT_GATE, *command, environment=environment, cwd=tmp_path)
        assert answer.returncode == 0, answer.stderr[-3000:]
        return answer.stdout

    flags = ["--max-length", "32", "--epochs", "1", "--train.per-device-train-batch-size", "8", "--model", bert]
    flags += ["--model.pooling", "mean", "--model.last-layers", "2", "--model.head", "gru"]
    shown = ours("train", "train.csv", *flags, "--push", "tester/pooled", "--output", "run")
    assert "run/encoder" in shown and "run/head.safetensors" in shown and "run/model" not in shown
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["standalone"] is False and result["artefacts"] == ["encoder"]
    assert result["why_not_standalone"] == "BertForSequenceClassification has no head with a GRU over the tokens"
    assert result["parity"]["reload"]["ok"] and not (tmp_path / "run" / "model").exists()
    sent = {path: blob.content for path, blob in hub.repo("tester/pooled").at("main").files.items()}
    encoder = {f"encoder/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")}
    assert encoder | {"head.safetensors"} <= set(sent)
    assert "config.json" not in sent

    ours("predict", "tester/pooled", "train.csv", "--output", "labels.csv")
    scored = json.loads(ours("evaluate", "run", "train.csv", "--json"))
    assert scored["rows"] == 60 and scored["metrics"]["accuracy"]["value"] > 0.6

    with (tmp_path / "labels.csv").open(newline="") as file:
        first = next(csv.DictReader(file))["predicted"]
    # From the Hub, as the card has it, and from the folder.
    code = snippet_of(sent["README.md"].decode()).replace("A text to classify.", text_rows(1)["text"][0])
    assert "hf_finetune" not in code and '"tester/pooled"' in code
    (tmp_path / "snippet.py").write_text(code + code.replace('"tester/pooled"', '"run"'))
    # As a reader of the card runs it: a fresh interpreter, with nothing of ours imported, as the gate would.
    command = [sys.executable, "-P", "snippet.py"]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert answer.returncode == 0 and answer.stdout.split() == [first, first], answer.stderr[-3000:]


@pytest.mark.usefixtures("gate_here")
def test_a_resumed_run_ends_with_the_same_bits(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint holds the head and the pooling, too; and training has changed each of them."""
    recipe = reading(recipe, pooling="attention", last_layers=2, head="mlp", head_width=8)

    straight = pipeline.run(recipe, Launch(output=str(tmp_path / "straight")))
    with monkeypatch.context() as patch, pytest.raises(StoppedBySignal):
        stop_after(patch, 3)
        pipeline.run(recipe, Launch(output=str(tmp_path / "stopped")))
    resumed = pipeline.run(recipe, Launch(output=str(tmp_path / "stopped"), resume=True))
    assert straight["parity"]["reload"]["ok"] and resumed["parity"]["reload"]["ok"]
    for name in ("head.safetensors", "encoder/model.safetensors"):
        one, other = (load_file(tmp_path / run / name) for run in ("straight", "stopped"))
        assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
    head = load_file(tmp_path / "straight" / "head.safetensors")
    assert head["query"].shape == (64,) and head["query"].abs().max() > 0, "it starts at zero"
    assert head["dense.weight"].shape == (8, 64)
    before = load_file(Path(recipe.model.checkpoint) / "model.safetensors")
    after = load_file(tmp_path / "straight" / "encoder" / "model.safetensors")
    assert not [name for name in after if "pooler" in name]
    assert all(not torch.equal(before[name], after[name]) for name in after if "layer.2" in name)


@pytest.mark.usefixtures("gate_here")
def test_a_convolution_over_cached_states(recipe: Recipe, tmp_path: Path) -> None:
    """With method head the encoder stays as it is, all layers are computed once, and the network over them trains."""
    recipe = dataclasses.replace(reading(recipe, head="convolution", head_width=6), method="head")
    result = pipeline.run(recipe, Launch(output=str(tmp_path / "run")))
    assert result["cache"]["used"] and result["parity"]["reload"]["ok"] and result["standalone"] is False
    before = load_file(Path(recipe.model.checkpoint) / "model.safetensors")
    after = load_file(tmp_path / "run" / "encoder" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in after if "layer.2" in name)
    head = load_file(tmp_path / "run" / "head.safetensors")
    assert head["network.weight"].shape == (6, 32, 3) and head["out.weight"].shape[1] == 6
    assert result["metrics"]["validation"]["accuracy"]["value"] > 0.6
    assert snippet_of((tmp_path / "run" / "README.md").read_text()).count("token_states(") == 2, "defined and used"


@pytest.mark.usefixtures("gate_here")
def test_a_linear_head_on_the_first_token_is_folded(recipe: Recipe, tmp_path: Path) -> None:
    """With adapters, too: plain transformers loads the model as a whole, `pipeline` answers with its labels."""
    recipe = dataclasses.replace(reading(recipe, pooling="cls", head="linear"), method="lora")
    result = pipeline.run(recipe, Launch(output=str(tmp_path / "run")))
    assert result["standalone"] is True and result["artefacts"] == ["model"] and "why_not_standalone" not in result
    assert result["parity"]["reload"]["ok"] and result["parity"]["pipeline"]["ok"]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert torch.equal(model.bert.pooler.dense.weight, 2.0**-14 * torch.eye(32))
    assert "adapter" not in (tmp_path / "run" / "README.md").read_text().partition("## How to use")[2].split("##")[0]


@pytest.mark.usefixtures("gate_here")
def test_images_by_the_mean_of_their_patches(tmp_path: Path) -> None:
    folder, rows = tmp_path / "pictures", image_rows(48)
    for i, (picture, label) in enumerate(zip(rows["image"], rows["label"], strict=True)):
        path = folder / ("dark", "bright")[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture["bytes"])
    recipe = Recipe(
        name="patches",
        data=ImageData(path=str(folder)),
        model=Model(checkpoint=str(tiny_image_checkpoint(tmp_path / "vit")), pooling="mean"),
        method="head",
        train=Train(num_train_epochs=1.0, per_device_train_batch_size=16),
        precision=Precision(mixed_precision="no"),
        evaluate=Evaluate(resamples=100, baselines=False, plots=False),
    )
    result = pipeline.run(recipe, Launch(output=str(tmp_path / "run")))
    assert result["standalone"] is False and result["parity"]["reload"]["ok"]
    assert result["cache"]["used"], "all layers are frozen, and all of their tokens are kept"
    classifier = load_trained(str(tmp_path / "run"))
    assert classifier.kind == "image" and classifier.labels == ("bright", "dark")
    some = rows.select(range(8))
    expected = softmax(reference_logits(classifier.model, classifier.inputs, classifier.inputs.encode(some)))
    assert torch.allclose(torch.from_numpy(probabilities(classifier, some)), torch.from_numpy(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"last_layers": 4}, "model.last_layers: expected 1 to 3, got 4"),
        ({"last_layers": 4, "pooling": "mean"}, "model.last_layers: expected 1 to 3, got 4"),
    ],
)
def test_what_cannot_be_read_is_refused_at_once(recipe: Recipe, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        pipeline.run(reading(recipe, **changes), Launch(output=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_unpadded_steps_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    wanted = dataclasses.replace(
        reading(recipe, pooling="mean"), batching=dataclasses.replace(recipe.batching, unpadded=True)
    )
    with pytest.raises(InputError, match=r"batching\.unpadded"):
        pipeline.run(wanted, Launch(output=str(tmp_path / "run")))
