"""Whole runs of what trains: an adapter alone, one that cuts into the weights, ranks, kinds of weights, one layer
more."""

import json
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from helpers.small_runs import small_recipe
from helpers.tiny import tiny_text_checkpoint
from safetensors.torch import load_file

from hf_finetune import Launch, Lora, Recipe
from hf_finetune.cli.overrides import parse_run
from hf_finetune.cli.run_job import RunJob
from hf_finetune.data.config import SourceSplit
from hf_finetune.errors import InputError
from hf_finetune.hub.contents import collect
from hf_finetune.inference.evaluation import evaluate
from hf_finetune.inference.prediction import predict
from hf_finetune.models.peft.config import PEFT_TYPES
from hf_finetune.models.surgery.layers import AddLayers
from hf_finetune.pipeline import add_adapter, run
from hf_finetune.pipeline.run_setup import RunSetup
from hf_finetune.tasks import trained_model as trained

pytestmark = pytest.mark.usefixtures("gate_here")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("input"))


def from_flags(recipe: Recipe, *flags: str) -> Recipe:
    return parse_run(RunJob(recipe), flags, "hf-finetune run").recipe


def test_a_prompt_is_an_adapter_alone(recipe: Recipe, tmp_path: Path) -> None:
    """No model/, and why; it is scored, predicts what it predicted when trained, and can be sent."""
    result = run.run(from_flags(recipe, "--adapter", "PROMPT_TUNING"), Launch(output=str(tmp_path / "run")))
    assert result is not None and result["method"] == "prompt_tuning" and result["parity"].keys() == {"adapter"}
    assert result["parity"]["adapter"]["ok"] and result["standalone"] is False
    assert "no stock class" in result["why_not_standalone"] and result["artefacts"] == ["adapter"]
    # 20 vectors of width 32, and the head for two classes.
    assert result["parameters"]["trained"] == 20 * 32 + 2 * 32 + 2
    assert not (tmp_path / "run" / "model").exists()
    assert "nothing for `pipeline` to load" in (tmp_path / "run" / "README.md").read_text()

    classifier = trained.load_trained(str(tmp_path / "run"))
    assert classifier.labels == ("bad", "good") and classifier.inputs.max_length == 32
    source = SourceSplit(path=recipe.data.path)
    output = tmp_path / "out.csv"
    assert predict(classifier, source, output, precision="float32")["rows"] == 60
    assert evaluate(classifier, source)["rows"] == 60
    files = collect(tmp_path / "run", "me/prompt")
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/config.json"} < files.keys()


def test_pissa_loads_onto_the_checkpoint_as_it_was(recipe: Recipe, tmp_path: Path) -> None:
    flags = ("--method", "lora", "--lora.variant", "pissa", "--lora.r", "4")
    result = run.run(from_flags(recipe, *flags), Launch(output=str(tmp_path / "run")))
    assert result is not None and all(check["ok"] for check in result["parity"].values())
    assert result["parity"].keys() == {"reload", "adapter", "pipeline"} and result["standalone"]
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["init_lora_weights"]) == (8, True)


@pytest.mark.parametrize(("adapter", "after"), [("LORA", False), ("FOURIERFT", True), ("PROMPT_TUNING", True)])
def test_the_head_is_fitted_to_what_it_will_read(
    adapter: str, after: bool, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FourierFT begins with random numbers: with the adapter on, the network computes something else."""
    fit, seen = add_adapter.fit_head, []

    def watched(setup: RunSetup) -> RunSetup:
        seen.append(isinstance(setup.network, peft.PeftModel))
        return fit(setup)

    monkeypatch.setattr(add_adapter, "fit_head", watched)
    flags = ("--adapter", adapter, "--train.max-steps", "1")
    run.run(from_flags(recipe, *flags), Launch(output=str(tmp_path / "run")))
    assert seen == [after]


def test_another_pooling_than_the_checkpoint_s_needs_the_whole_model(recipe: Recipe, tmp_path: Path) -> None:
    """The adapter by itself would be put on a checkpoint that pools otherwise."""
    checkpoint = str(tiny_text_checkpoint(tmp_path / "modernbert", "modernbert"))
    for pooling, kept in (("mean", False), ("cls", True)):
        flags = ("--model", checkpoint, "--method", "lora", "--model.pooling", pooling, "--train.max-steps", "1")
        result = run.run(from_flags(recipe, *flags), Launch(output=str(tmp_path / pooling)))
        assert result is not None and all(check["ok"] for check in result["parity"].values())
        assert (tmp_path / pooling / "adapter").exists() == ("adapter" in result["parity"]) == kept
        assert any("changed by model.pooling" in note for note in result["notes"]) != kept


def test_adalora_ends_at_its_budget(recipe: Recipe, tmp_path: Path) -> None:
    flags = ("--adapter", "{peft_type: ADALORA, init_r: 4, target_r: 2}")
    result = run.run(from_flags(recipe, *flags), Launch(output=str(tmp_path / "run")))
    assert result is not None and all(check["ok"] for check in result["parity"].values())
    stored = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert sum(len(t) for n, t in stored.items() if n.endswith("lora_E")) == 18 * 2


@pytest.mark.parametrize("how", ["biases", "norms", "attention", r"layer\.2\."])
def test_exactly_what_was_chosen_changes(how: str, recipe: Recipe, tmp_path: Path) -> None:
    flag = "--model.trainable-pattern" if "layer" in how else "--model.trainable"
    result = run.run(from_flags(recipe, flag, how), Launch(output=str(tmp_path / "run")))
    assert result is not None and result["parity"]["reload"]["ok"]
    assert result["cache"]["layer"] == (2 if "layer" in how else 0)
    before = load_file(Path(recipe.model.checkpoint) / "model.safetensors")
    after = {
        name.removeprefix("bert."): tensor
        for name, tensor in load_file(tmp_path / "run" / "model" / "model.safetensors").items()
        if name.startswith("bert.")
    }
    wanted = {"biases": ".bias", "norms": "LayerNorm", "attention": ".attention.", r"layer\.2\.": "layer.2."}[how]
    chosen = {name for name in before if wanted in name}
    changed = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    # The bias of the keys has no effect on attention, so its gradient is rounding, and may be exactly 0.
    assert changed <= chosen and all("key.bias" in name for name in chosen - changed)
    assert result["parameters"]["trained"] == sum(before[name].numel() for name in chosen) + 2 * 32 + 2


def test_gradual_unfreezing_in_a_run(recipe: Recipe, tmp_path: Path) -> None:
    """Seven steps, one layer more every 3.5: the head, then the top layer; the others keep their bits."""
    gradual = from_flags(recipe, "--model.unfreeze-every", "0.5", "--train.keep-checkpoints")
    result = run.run(gradual, Launch(output=str(tmp_path / "run")))
    assert result is not None and result["parity"]["reload"]["ok"] and result["steps"] == 7
    before = load_file(Path(recipe.model.checkpoint) / "model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    changed = {name for name, tensor in before.items() if not torch.equal(after[f"bert.{name}"], tensor)}
    assert changed and all(name.startswith(("encoder.layer.2.", "pooler.")) for name in changed)
    trained = sum(t.numel() for n, t in before.items() if n.startswith(("encoder.layer.2.", "pooler."))) + 2 * 32 + 2
    assert result["parameters"]["trained"] == trained
    # Killed between its last checkpoint and its result: nothing is trained any more, and the same is counted.
    (tmp_path / "run" / "result.json").unlink()
    again = run.run(gradual, Launch(output=str(tmp_path / "run"), resume=True))
    assert again is not None and again["parameters"]["trained"] == trained and again["flops"] is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adapter": peft.PrefixTuningConfig()}, "PREFIX_TUNING does not fit bert"),
        ({"adapter": peft.PromptTuningConfig(num_virtual_tokens=40)}, "data.max_length: expected 24 or less, got 32"),
        (
            {"adapter": peft.LNTuningConfig()},
            f"adapter.peft_type: expected one of {', '.join(PEFT_TYPES)}, got 'LN_TUNING'",
        ),
        (
            {"model.surgery": (AddLayers(last=1),), "method": "lora", "lora": Lora(variant="dora")},
            "adapter: DoRA does not go with AddLayers in model.surgery, whose new layers would not learn",
        ),
        ({"model.trainable_pattern": "layer.7"}, "no weight of bert is named 'layer.7'"),
    ],
)
def test_what_cannot_be_is_refused_before_the_data_are_read(
    changes: dict, words: str, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_finetune.pipeline.load_data.load_splits", lambda *_, **__: pytest.fail("read the data"))
    inside = {name.removeprefix("model."): v for name, v in changes.items() if name.startswith("model.")}
    outside = {name: v for name, v in changes.items() if not name.startswith("model.")}
    wrong = replace(recipe, model=replace(recipe.model, **inside), **outside)
    with pytest.raises(InputError) as caught:
        run.run(wrong, Launch(output=str(tmp_path / "run")))
    assert words in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_adapters_on_the_command_line(recipe: Recipe) -> None:
    assert from_flags(recipe, "--adapter", "IA3").effective_method == "ia3"
    dora = from_flags(recipe, "--adapter={peft_type: LORA, use_dora: true, r: 4}").adapter
    assert (dora.use_dora, dora.r) == (True, 4)
    changed = from_flags(replace(recipe, adapter=dora), "--adapter.r", "2", "--adapter.lora-alpha=4.5").adapter
    assert (changed.use_dora, changed.r, changed.lora_alpha, changed.peft_type) == (True, 2, 4.5, dora.peft_type)
    assert from_flags(recipe, "--adapter", "IA3", "--adapter.feedforward_modules", "[dense]").effective_method == "ia3"
    lora = from_flags(recipe, "--method", "lora", "--lora.alpha", "32", "--lora.dropout", "0.1").lora
    assert lora == Lora(alpha=32.0, dropout=0.1)
    for flags, words in (
        (["--adapter", "DORA"], f"adapter.peft_type: expected one of {', '.join(PEFT_TYPES)}, got 'DORA'"),
        (["--adapter", "{peft_type: LN_TUNING}"], f"expected one of {', '.join(PEFT_TYPES)}, got 'LN_TUNING'"),
        (["--adapter"], "--adapter: expected a value, such as LORA"),
        (
            ["--adapter", "{peft_type: LORA, lora_dropot: 3}"],
            "adapter.lora_dropot: no such field, did you mean 'lora_dropout'?",
        ),
        (["--adapter", "LORA", "--adapter.r", "many"], "adapter.r: expected a number, got 'many'"),
        (["--adapter", "LORA", "--adapter.use-dora", "1"], "adapter.use_dora: expected true or false, got 1"),
        (["--adapter.r", "4"], "adapter: expected a PEFT config"),
        (["--adapter.r"], "--adapter.r: expected a value"),
    ):
        with pytest.raises(InputError) as caught:
            from_flags(recipe, *flags)
        assert words in str(caught.value)
