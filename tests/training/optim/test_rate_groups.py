"""Groups of parameters by hand: what decays, and who learns at which rate."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.small_runs import small_recipe, small_trainer
from helpers.tiny import IMAGE_FAMILIES, tiny_image_checkpoint, tiny_text_checkpoint
from peft import LoraConfig
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from hf_finetune import Launch, Optim, Recipe
from hf_finetune.errors import InputError
from hf_finetune.models.modules import encoder, encoder_layers
from hf_finetune.models.peft.adapters import add_adapter
from hf_finetune.pipeline import run
from hf_finetune.training.optim.rate_groups import Rates, is_vector, rate_groups, rates_in_words

pytestmark = pytest.mark.usefixtures("gate_here")


def model_of(folder: Path, family: str) -> PreTrainedModel:
    make, task = tiny_text_checkpoint, "text-classification"
    if family in IMAGE_FAMILIES:
        make, task = tiny_image_checkpoint, "image-classification"
    make(folder / family, family)
    return load_classifier(str(folder / family), task=task, labels=("no", "yes"), seed=0).model


def by_name(model: nn.Module, groups: list[dict[str, Any]], key: str) -> dict[str, Any]:
    names = {p: name for name, p in model.named_parameters()}
    actual = {names[p]: group[key] for group in groups for p in group["params"]}
    assert len(actual) == sum(len(group["params"]) for group in groups), "a parameter in two groups"
    assert actual.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    return actual


FAMILIES = ("bert", "roberta", "distilbert", "modernbert", "electra", "deberta-v2", "vit", "dinov2", "swin", "convnext")


@pytest.mark.parametrize("family", [*FAMILIES, "resnet"])
def test_matrices_kernels_and_embeddings_decay_and_nothing_else(tmp_path: Path, family: str) -> None:
    """Whatever the family calls its norms, layer scales, tokens and tables."""
    model = model_of(tmp_path, family)
    decays = {
        name
        for name, decay in by_name(model, rate_groups(model, lr=1.0, weight_decay=0.1), "weight_decay").items()
        if decay
    }
    modules = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Embedding)}
    norms = {
        f"{n}.{p}"
        for n, m in model.named_modules()
        if "norm" in type(m).__name__.lower()
        for p, _ in m.named_parameters()
    }
    assert decays <= modules and not decays & norms
    assert {n for n in modules - decays if not is_vector(model.get_parameter(n))} <= {
        n for n in modules if "bias" in n.rpartition(".")[2]
    }


def test_as_the_trainer_groups_a_bert(tmp_path: Path) -> None:
    """The default on texts is what it was."""
    trainer = small_trainer(tmp_path, "bert", weight_decay=0.1)
    groups = rate_groups(trainer.model, lr=1e-3, weight_decay=0.1)
    assert [(g["lr"], g["weight_decay"], g["part"]) for g in groups] == [
        (1e-3, 0.1, "the rest"),
        (1e-3, 0.0, "the rest"),
    ]
    decays = set(trainer.get_decay_parameter_names(trainer.model))
    expected = [[p for n, p in trainer.model.named_parameters() if (n in decays) == decay] for decay in (True, False)]
    assert [list(map(id, g["params"])) for g in groups] == [list(map(id, actual)) for actual in expected]


def test_tokens_tables_and_layer_scales_of_a_dinov2_do_not_decay(tmp_path: Path) -> None:
    model = model_of(tmp_path, "dinov2")
    decay = by_name(model, rate_groups(model, lr=1.0, weight_decay=0.1), "weight_decay")
    for end in ("cls_token", "mask_token", "position_embeddings", "lambda1"):
        named = [name for name in decay if name.endswith(end)]
        assert named and all(decay[name] == 0 for name in named), end


def test_biases_by_distance_do_not_decay_and_factors_of_rank_one_do(tmp_path: Path) -> None:
    """MPNet's are the weight of an embedding; LoRA's of rank 1 are matrices of one row or column."""
    model = model_of(tmp_path, "mpnet")
    decay = by_name(model, rate_groups(model, lr=1.0, weight_decay=0.1), "weight_decay")
    assert decay["mpnet.encoder.relative_attention_bias.weight"] == 0.0
    assert decay["mpnet.embeddings.word_embeddings.weight"] == 0.1
    lora = add_adapter(model, LoraConfig(r=1, target_modules=["q"]), ())
    actual = rate_groups(lora, lr=1.0, weight_decay=0.1, split_matrices=True)
    factors = {name for name, _ in lora.named_parameters() if "lora_" in name}
    for key, expected in (("weight_decay", 0.1), ("matrix", True)):
        values = by_name(lora, actual, key)
        assert factors and {values[name] for name in factors} == {expected}


def test_layer_decay_of_a_poolformer(tmp_path: Path) -> None:
    """What leads from one stage to the next learns as the block behind it; with four blocks, k at 0.5^(4 - k)."""
    model = model_of(tmp_path, "poolformer")
    rate = by_name(model, rate_groups(model, lr=1.0, weight_decay=0.0, rates=Rates(layer_decay=0.5)), "lr")
    blocks = encoder_layers(model)
    names = {p: name for name, p in model.named_parameters()}
    by_block = [{rate[names[p]] for p in block.parameters()} for block in blocks]
    assert by_block == [{0.5 ** (len(blocks) - k)} for k in range(len(blocks))]
    stages = encoder(model).encoder
    assert rate[names[stages.patch_embeddings[0].projection.weight]] == 0.5 ** (len(blocks) + 1)
    for stage, embedding in enumerate(stages.patch_embeddings[1:], start=1):
        behind = next(stages.block[stage].parameters())
        assert rate[names[embedding.projection.weight]] == rate[names[behind]] < 1.0


@pytest.mark.parametrize("family", ["bert", "vit", "distilbert", "resnet"])
def test_layer_decay_by_hand(tmp_path: Path, family: str) -> None:
    """With L layers, layer k at 0.5^(L - k), embeddings at 0.5^(L + 1), what is above the layers at 1."""
    model = model_of(tmp_path, family)
    groups = rate_groups(model, lr=1.0, weight_decay=0.0, rates=Rates(layer_decay=0.5))
    rate = by_name(model, groups, "lr")
    layers = {
        "bert": "encoder.layer.",
        "vit": "layers.",
        "distilbert": "transformer.layer.",
        "resnet": "encoder.stages.",
    }
    count = {"resnet": 4}.get(family, 3)
    seen = set()
    for name, actual in rate.items():
        _, _, rest = name.partition(layers[family])
        if rest:
            seen.add(k := int(rest.split(".")[0]))
            assert actual == 0.5 ** (count - k), name
        elif "embed" in name:
            assert actual == 0.5 ** (count + 1), name
        else:
            assert actual == 1.0, name
    assert seen == set(range(count)) and groups[0]["lr"] == 1.0
    assert "layer 0 0.125" in rates_in_words(groups) or family == "resnet"


def test_head_rate_holds_for_what_the_checkpoint_lacked(tmp_path: Path) -> None:
    model = model_of(tmp_path, "bert")
    rates = Rates(head=0.1, layer_decay=0.5, fresh=["bert.pooler"])
    rate = by_name(model, rate_groups(model, lr=1.0, weight_decay=0.0, rates=rates), "lr")
    assert {name for name, actual in rate.items() if actual == 0.1} == {
        "classifier.weight",
        "classifier.bias",
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
    }


def test_lora_plus_raises_the_b_matrices_alone(tmp_path: Path) -> None:
    model = add_adapter(model_of(tmp_path, "bert"), LoraConfig(r=2), fresh=["classifier"])
    rates = Rates(lora_plus_ratio=16.0, head=0.5, layer_decay=0.5)
    rate = by_name(model, rate_groups(model, lr=1.0, weight_decay=0.0, rates=rates), "lr")
    for k in range(3):
        a, b = (next(n for n in rate if f"layer.{k}." in n and f"lora_{x}" in n) for x in "AB")
        assert rate[a] == 0.5 ** (3 - k) and rate[b] == 16 * rate[a]
    assert all(rate[n] == 0.5 for n in rate if "classifier" in n)
    plain = model_of(tmp_path, "bert")
    with pytest.raises(InputError, match=r"optim\.lora_plus_ratio: this adapter has no LoRA matrices"):
        rate_groups(plain, lr=1.0, weight_decay=0.0, rates=rates)


def test_matrices_for_muon(tmp_path: Path) -> None:
    """Of a BERT: the linear weights of the layers; not the embeddings, the pooler, the head, nor any vector."""
    model = model_of(tmp_path, "bert")
    matrix = by_name(model, rate_groups(model, lr=1.0, weight_decay=0.1, split_matrices=True), "matrix")
    layers = model.bert.encoder.layer
    expected = {f"bert.encoder.layer.{n}.weight" for n, m in layers.named_modules() if isinstance(m, nn.Linear)}
    assert {name for name, actual in matrix.items() if actual} == expected and len(expected) == 18


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("input"))


def moved(model: Path, start: dict[str, torch.Tensor], name: str) -> float:
    return float((load_file(model / "model.safetensors")[f"bert.{name}"] - start[name]).abs().max())


def test_a_run_moves_each_layer_by_its_rate(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    """AdamW moves a weight by about its rate at a step: with a factor of a hundredth each layer moves a hundredth of
    the one above, words too, which are a table of their own rate; saved, reloaded and compared by the gate."""
    recipe = replace(
        small, optim=Optim(layer_decay=0.01, head_learning_rate=1e-3), train=replace(small.train, weight_decay=0)
    )
    with caplog.at_level("INFO"):
        result = run.run(recipe, Launch(output=str(tmp_path / "run")))
    assert result is not None and result["parity"]["reload"]["ok"]
    assert "peak learning rates: " in caplog.text and "head 0.001" in caplog.text and "layer 2 1e-06" in caplog.text
    start = load_file(Path(small.model.checkpoint) / "model.safetensors")
    actual = [moved(tmp_path / "run" / "model", start, f"encoder.layer.{k}.intermediate.dense.bias") for k in range(3)]
    words = moved(tmp_path / "run" / "model", start, "embeddings.word_embeddings.weight")
    assert 1e-6 < actual[2] < 1e-5 and 0 < actual[1] < 0.05 * actual[2]
    # 1e-12 and 1e-14 a step are below what float32 holds beside weights of 0.1.
    assert words < 1e-8


def test_lora_plus_in_a_run(small: Recipe, tmp_path: Path) -> None:
    """B starts at 0 and moves 16 times as far: so does the first step's update of the layer."""
    furthest = {}
    for ratio in (None, 16.0):
        recipe = replace(small, method="lora", optim=Optim(lora_plus_ratio=ratio))
        recipe = replace(recipe, train=replace(small.train, learning_rate=1e-4, warmup_steps=0, max_steps=1))
        run.run(recipe, Launch(output=str(tmp_path / str(ratio))))
        adapter = load_file(tmp_path / str(ratio) / "adapter" / "adapter_model.safetensors")
        furthest[ratio] = max(float(t.abs().max()) for n, t in adapter.items() if "lora_B" in n)
    assert furthest[None] == pytest.approx(1e-4, rel=0.01) and furthest[16.0] == pytest.approx(16e-4, rel=0.01)
