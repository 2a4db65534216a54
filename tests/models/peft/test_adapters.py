"""Adapters of every family give the same logits after reloading onto another head, and after merging and reloading."""

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.tiny import IMAGE_FAMILIES, TEXT_FAMILIES, tiny_image_checkpoint, tiny_text_checkpoint
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint import inspect_checkpoint
from hf_finetune.models.checkpoint_config import meta_classifier
from hf_finetune.models.freezing import frozen_layers, trainable_parameters
from hf_finetune.models.peft.adapters import add_adapter, load_adapter, lora_config, merge, mergeable, save_adapter
from hf_finetune.models.peft.compatibility import check_added_layers
from hf_finetune.models.peft.config import Lora
from hf_finetune.models.peft.state import load_state, save_state
from hf_finetune.models.surgery.layers import AddLayers

CONVOLUTIONS_ONLY = ("resnet", "efficientnet", "poolformer")
FAMILIES = TEXT_FAMILIES + IMAGE_FAMILIES


def perturb(model: nn.Module) -> None:
    """Move every trainable weight, LoRA's zero matrices included, as training would."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.eval()(**batch).logits


def check_round_trips(adapted, batch: dict, other_base: nn.Module, folder: Path) -> None:
    """Train, save, reload on `other_base`; merge, save, reload with stock classes: the logits stay the same."""
    at_first = logits(adapted, batch)
    perturb(adapted)
    trained = logits(adapted, batch)
    with adapted.disable_adapter():
        # Head and adapter must both matter, or the comparisons below mean nothing.
        assert (logits(adapted, batch) - trained).abs().max() > 1e-2
    assert (at_first - trained).abs().max() > 1e-2
    assert (logits(other_base, batch) - trained).abs().max() > 1e-2

    save_adapter(adapted, folder / "adapter")
    assert {p.name for p in (folder / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    reloaded = load_adapter(other_base, folder / "adapter")
    torch.testing.assert_close(logits(reloaded, batch), trained, atol=1e-5, rtol=0)

    merged = merge(adapted)
    torch.testing.assert_close(logits(adapted, batch), trained, atol=0, rtol=0)
    merged.save_pretrained(folder / "merged")
    auto = AutoModelForImageClassification if "pixel_values" in batch else AutoModelForSequenceClassification
    stock, info = auto.from_pretrained(folder / "merged", output_loading_info=True)
    assert type(stock) is type(merged) and not info["missing_keys"] and not info["unexpected_keys"]
    torch.testing.assert_close(logits(stock, batch), trained, atol=2e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_round_trips(family: str, classifier, inputs, tmp_path: Path):
    loaded = classifier(family, seed=1)
    adapted = add_adapter(loaded.model, lora_config(loaded.model, Lora(r=4), fresh=loaded.fresh), loaded.fresh)
    check_round_trips(adapted, inputs(family), classifier(family, seed=2).model, tmp_path)


@pytest.mark.parametrize("family", ["distilbert", "deberta-v2", "modernbert", "vit", "swin", "resnet"])
def test_user_config_is_completed(family: str, classifier, inputs, tmp_path: Path):
    """A config as a user would write it for BERT."""
    loaded = classifier(family, seed=1)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear")
    adapted = add_adapter(loaded.model, config, loaded.fresh)
    assert (config.target_modules, config.modules_to_save) == ("all-linear", None)
    training = {n for n, p in adapted.named_parameters() if p.requires_grad}
    assert all("lora_" in n or "modules_to_save" in n for n in training)
    assert not any("lora_" in n and ("classifier" in n or "pooler" in n) for n in training)
    check_round_trips(adapted, inputs(family), classifier(family, seed=2).model, tmp_path)


METHODS = {
    "dora": peft.LoraConfig(use_dora=True),
    "rslora": peft.LoraConfig(use_rslora=True),
    "pissa": peft.LoraConfig(init_lora_weights="pissa"),
    "olora": peft.LoraConfig(init_lora_weights="olora"),
    "some targets": peft.LoraConfig(target_modules=["query", "q_proj"]),
    "embeddings saved": peft.LoraConfig(modules_to_save=["embeddings"]),
    "biases": peft.LoraConfig(bias="all"),
    "adalora": peft.AdaLoraConfig(total_step=10),
    "ia3": peft.IA3Config(),
    "vera": peft.VeraConfig(r=4),
    "oft": peft.OFTConfig(oft_block_size=4),
    "boft": peft.BOFTConfig(),
    "loha": peft.LoHaConfig(),
    "lokr": peft.LoKrConfig(),
    "hra": peft.HRAConfig(r=4),
    "fourierft": peft.FourierFTConfig(n_frequency=16),
    "randlora": peft.RandLoraConfig(r=4),
}


# A head of several layers (RoBERTa), images, linear layers with convolutions, convolutions only.
EVERYWHERE = ("bert", "roberta", "vit", "convnext", "resnet")
TABLE = [
    *((m, f) for m in METHODS for f in EVERYWHERE[: 2 if m in ("some targets", "embeddings saved", "biases") else 5]),
    *((m, f) for m in ("dora", "adalora", "ia3") for f in ("distilbert", "modernbert", "deberta-v2", "swin")),
]
NOT = {("oft", "convnext"), *((m, "resnet") for m in ("pissa", "olora", "vera", "oft", "fourierft", "randlora"))}


@pytest.mark.filterwarnings("ignore:Careful, disabling adapter layers with bias")
@pytest.mark.parametrize(("method", "family"), [pair for pair in TABLE if pair not in NOT])
def test_other_methods(method: str, family: str, classifier, inputs, tmp_path: Path):
    loaded = classifier(family, seed=1)
    adapted = add_adapter(loaded.model, METHODS[method], loaded.fresh)
    check_round_trips(adapted, inputs(family), classifier(family, seed=2).model, tmp_path)


@pytest.mark.parametrize(("method", "family"), sorted(NOT))
def test_misfits_are_refused_without_weights(method: str, family: str, checkpoint):
    task = "image-classification"
    meta = meta_classifier(inspect_checkpoint(checkpoint(family)), task)
    with pytest.raises(InputError, match=f"does not fit {family}"):
        add_adapter(meta, METHODS[method], (), empty=True)


def test_every_method_fits_a_meta_model(checkpoint):
    """Whatever its initial weights are computed from."""
    folder = inspect_checkpoint(checkpoint("bert"))
    for config in METHODS.values():
        adapted = add_adapter(meta_classifier(folder, "text-classification"), config, (), empty=True)
        assert all(p.is_meta for p in adapted.parameters())


@pytest.mark.parametrize(
    ("family", "step"),
    [("bert", AddLayers(last=1)), ("poolformer", AddLayers(last=1)), ("resnet", AddLayers(layers=(3,)))],
)
def test_added_layers_learn_or_the_adapter_is_refused(family: str, step: AddLayers, classifier, inputs):
    """Methods that cannot change output weights of zero are refused, and FourierFT, which starts at random."""
    refused = []
    for method, config in METHODS.items():
        if config.target_modules is not None:
            continue  # It names its own targets.
        loaded = classifier(family)
        model = step(loaded.model)
        try:
            adapted = add_adapter(model, config, ())
        except InputError:
            continue
        output = {"bert": "encoder.layer.3.output.dense", "poolformer": "encoder.block.3.1.output.conv2"}.get(family)
        moves = False
        if output is not None:
            adapted(**inputs(family)).logits.square().sum().backward()
            trained = [p for n, p in adapted.named_parameters() if output in n and p.requires_grad]
            moves = all(p.grad.isfinite().all() for p in trained) and any(p.grad.any() for p in trained)
        try:
            check_added_layers(step(classifier(family).model), config)
            assert moves, method
        except InputError as error:
            assert moves == (method == "fourierft") and "does not go with AddLayers" in str(error), method
            refused.append(method)
    if family == "bert":
        assert sorted(refused) == ["boft", "dora", "fourierft", "hra", "ia3", "oft", "pissa"]


PROMPTS = {"prompt": peft.PromptTuningConfig(), "p-tuning": peft.PromptEncoderConfig(num_virtual_tokens=3)}


@pytest.mark.parametrize("method", PROMPTS)
@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_prompts(family: str, method: str, classifier, inputs, tmp_path: Path):
    """They reload onto another head with the same logits, padded or not, but cannot be merged."""
    loaded, batch = classifier(family, seed=1), inputs(family)
    adapted = add_adapter(loaded.model, PROMPTS[method], loaded.fresh)
    assert not mergeable(adapted) and frozen_layers(adapted) == 0
    adapted.train()(**batch, labels=torch.tensor([0, 2])).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in adapted.parameters() if p.requires_grad)
    perturb(adapted)
    trained = logits(adapted, batch)
    save_state(adapted, tmp_path)
    save_adapter(adapted, tmp_path / "adapter")
    other = classifier(family, seed=2).model
    assert (logits(other, batch) - trained).abs().max() > 1e-3
    torch.testing.assert_close(
        logits(load_adapter(other, tmp_path / "adapter"), batch), trained, atol=1e-5, rtol=0, check_stride=False
    )
    alone = {name: tensor[:1] for name, tensor in batch.items() if name == "input_ids"}
    torch.testing.assert_close(logits(adapted, alone), trained[:1], atol=1e-5, rtol=0)
    perturb(adapted)
    load_state(adapted, tmp_path)
    assert torch.equal(logits(adapted, batch), trained)


@pytest.mark.parametrize("variant", ["pissa", "olora", "dora", "rslora"])
def test_lora_variants(variant: str, classifier, inputs, tmp_path: Path):
    """Adapters subtracted from the weights are saved as LoRA of twice the rank; initially no logits change."""
    loaded, batch = classifier("bert", seed=1), inputs("bert")
    before = logits(loaded.model, batch)
    base = loaded.model.bert.encoder.layer[0].output.dense.weight.clone()
    adapted = add_adapter(loaded.model, lora_config(loaded.model, Lora(r=4, variant=variant), fresh=loaded.fresh), ())
    torch.testing.assert_close(logits(adapted, batch), before, atol=1e-5, rtol=0)
    cut = variant in ("pissa", "olora")
    layer = adapted.get_base_model().bert.encoder.layer[0].output.dense
    assert torch.equal(layer.base_layer.weight, base) != cut
    if variant == "pissa":
        # The base lacks the four largest singular values.
        kept = torch.linalg.svdvals(base)[4:]
        actual = torch.linalg.svdvals(layer.base_layer.weight.detach())[:-4]
        torch.testing.assert_close(actual, kept.detach(), atol=1e-5, rtol=0)
    save_adapter(adapted, tmp_path / "start")
    perturb(adapted)
    save_adapter(adapted, tmp_path / "adapter", start=tmp_path / "start")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["init_lora_weights"]) == (8 if cut else 4, True)
    assert (config["use_dora"], config["use_rslora"]) == (variant == "dora", variant == "rslora")
    reloaded = load_adapter(classifier("bert", seed=2).model, tmp_path / "adapter")
    torch.testing.assert_close(logits(reloaded, batch), logits(adapted, batch), atol=1e-5, rtol=0)


def test_names_of_layers_are_saved_in_one_order(classifier, tmp_path: Path):
    """They are a set, whose order differs from process to process: the same run would have another manifest."""
    names = ["value", "query", "key", "intermediate.dense", "output.dense"]
    loaded = classifier("bert", seed=1)
    save_adapter(add_adapter(loaded.model, peft.LoraConfig(target_modules=names), loaded.fresh), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(names)


@pytest.mark.filterwarnings("ignore:Using Rank-Stabilized LoRA with rank_pattern")
@pytest.mark.parametrize(("start", "rslora"), [("pissa", False), ("olora", True)])
def test_rank_above_the_layer_width(start: str, rslora: bool, classifier, inputs, tmp_path: Path):
    """Width 32, rank 40: 32 directions are subtracted and 64 saved, at the scale of rank 40; embeddings keep 40."""
    loaded = classifier("bert", seed=1)
    config = peft.LoraConfig(
        r=40,
        lora_alpha=20,
        use_rslora=rslora,
        init_lora_weights=start,
        target_modules=["query", "value", "word_embeddings"],
        rank_pattern={"value": 4},
        alpha_pattern={"value": 8},
    )
    adapted = add_adapter(loaded.model, config, loaded.fresh)
    save_adapter(adapted, tmp_path / "start")
    perturb(adapted)
    save_adapter(adapted, tmp_path / "adapter", start=tmp_path / "start")
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    expected = {"word_embeddings": 40, "query": 64, "value": 8}
    assert {name.rpartition(".")[2]: rank for name, rank in saved["rank_pattern"].items()} == expected
    assert len(saved["rank_pattern"]) == 1 + 3 + 3 and saved["r"] == 80
    reloaded = load_adapter(classifier("bert", seed=2).model, tmp_path / "adapter")
    torch.testing.assert_close(logits(reloaded, inputs("bert")), logits(adapted, inputs("bert")), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["pissa", "oft", "boft"])
def test_position_biases_of_swin_v2_are_not_adapted(method: str, inputs, tmp_path: Path):
    """Their layers map two coordinates to a bias per head: too small for a rank of 8 or a block of 4."""
    folder = tiny_image_checkpoint(tmp_path / "swinv2", "swinv2")
    one, other = (load_classifier(folder, task="image-classification", labels=["a", "b"], seed=s) for s in (1, 2))
    adapted = add_adapter(one.model, METHODS[method], one.fresh)
    assert not any("continuous_position_bias_mlp" in name for name in adapted.active_peft_config.target_modules)
    check_round_trips(adapted, inputs("swin"), other.model, tmp_path)


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("mobilenet_v1", "whose padding needs the stride of a convolution"),
        ("mobilenet_v2", "whose padding needs the stride of a convolution"),
        ("squeezebert", "whose layers have no torch.nn.Linear or Conv2d"),
        ("ibert", "whose layers have no torch.nn.Linear or Conv2d"),
    ],
)
def test_families_without_adapters_are_refused_without_weights(family: str, why: str, tmp_path: Path):
    images = family.startswith("mobilenet")
    folder = (tiny_image_checkpoint if images else tiny_text_checkpoint)(tmp_path, family)
    meta = meta_classifier(inspect_checkpoint(folder), "image-classification" if images else "text-classification")
    with pytest.raises(InputError) as caught:
        add_adapter(meta, peft.LoraConfig(), (), empty=True)
    expected = f"adapter: LORA does not fit {family}, {why}"
    assert str(caught.value).startswith(expected) and str(caught.value).endswith("; use --method full, top or head")


@pytest.mark.parametrize(
    "gone", ["pooler", "encoder.layer.1.output.dense", "encoder.layer.2.attention.self", "embeddings.LayerNorm"]
)
def test_new_modules_are_saved(gone: str, checkpoint, inputs, tmp_path: Path):
    """Modules that the checkpoint lacks, also in the encoder, start at random and are part of the adapter."""
    folder = Path(shutil.copytree(checkpoint("bert"), tmp_path / "base"))
    weights = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in weights.items() if gone not in k}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    options = {"task": "text-classification", "labels": ["a", "b", "c"]}
    loaded = load_classifier(folder, **options, seed=1)
    adapted = add_adapter(loaded.model, lora_config(loaded.model, Lora(), fresh=loaded.fresh), loaded.fresh)
    other = load_classifier(folder, **options, seed=2).model
    check_round_trips(adapted, inputs("bert"), other, tmp_path)


def test_parameters_count(classifier):
    """BERT, 3 layers of width 32 and 64, rank 4: 4 square matrices and 2 of 32 x 64 in each, and the head."""
    loaded = classifier("bert")
    config = lora_config(loaded.model, Lora(r=4, alpha=8, dropout=0.1), fresh=loaded.fresh)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 8, 0.1)
    assert (config.task_type, config.modules_to_save) == ("SEQ_CLS", ["classifier"])
    total = trainable_parameters(loaded.model)[1]
    adapted = add_adapter(loaded.model, config, loaded.fresh)
    adapters = 3 * 4 * (4 * (32 + 32) + 2 * (32 + 64))
    assert trainable_parameters(adapted) == (adapters + 99, total + adapters + 99)


def test_only_the_adapter_and_the_head_train(classifier, inputs):
    loaded = classifier("electra")
    adapted = add_adapter(loaded.model, lora_config(loaded.model, Lora(), fresh=loaded.fresh), loaded.fresh)
    adapted.train()(**inputs("electra"), labels=torch.tensor([0, 2])).loss.backward()
    moving = {n for n, p in adapted.named_parameters() if p.grad is not None}
    assert moving == {n for n, p in adapted.named_parameters() if p.requires_grad}


def test_initial_weights_depend_on_the_seed(classifier):
    def first(seed: int) -> torch.Tensor:
        loaded = classifier("bert")
        config = lora_config(loaded.model, Lora(), fresh=loaded.fresh)
        adapted = add_adapter(loaded.model, config, loaded.fresh, seed=seed)
        return torch.cat([p.flatten() for n, p in adapted.named_parameters() if "lora_A" in n])

    state = torch.get_rng_state()
    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_batch_norm_is_fixed_under_an_adapter(classifier, inputs):
    loaded = classifier("resnet")
    adapted = add_adapter(loaded.model, lora_config(loaded.model, Lora(), fresh=loaded.fresh), loaded.fresh)
    before = {n: b.clone() for n, b in adapted.named_buffers()}
    adapted.train()(**inputs("resnet"))
    assert all(torch.equal(before[n], b) for n, b in adapted.named_buffers())


def test_saved_config_names_the_checkpoint(classifier, checkpoint, tmp_path: Path):
    loaded = classifier("bert")
    save_adapter(add_adapter(loaded.model, peft.LoraConfig(), loaded.fresh), tmp_path / "new" / "adapter")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["adapter"]
    config = json.loads((tmp_path / "new" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(checkpoint("bert"))
    assert config["task_type"] == "SEQ_CLS"


@pytest.mark.parametrize(
    ("family", "config", "words"),
    [
        ("vit", peft.PromptTuningConfig(), "PROMPT_TUNING does not fit vit: images have no prompt"),
        *(
            (f, peft.PrefixTuningConfig(), f"PREFIX_TUNING does not fit {f}: its encoder takes no")
            for f in TEXT_FAMILIES
        ),
        ("bert", peft.LoraConfig(init_lora_weights="mica"), "init_lora_weights: 'mica' is not supported"),
        ("efficientnet", peft.HRAConfig(r=4), "HRA does not fit efficientnet"),
        (
            "bert",
            peft.LoraConfig(task_type="CAUSAL_LM", alora_invocation_tokens=[1]),
            "adapter.alora_invocation_tokens: expected none",
        ),
        ("bert", peft.LNTuningConfig(), "LN_TUNING is not supported yet; expected LORA"),
        *((f, peft.VeraConfig(), f"VERA does not fit {f}, which has only convolutions") for f in CONVOLUTIONS_ONLY),
        ("convnext", peft.OFTConfig(oft_block_size=4), "OFT does not fit convnext"),
        (
            "resnet",
            peft.LoraConfig(init_lora_weights="pissa"),
            "LORA does not fit resnet, which has no linear layers for init_lora_weights pissa",
        ),
        ("bert", peft.LoraConfig(target_modules=["nope"]), "LORA does not fit bert"),
        ("bert", peft.LoraConfig(modules_to_save=["poler"]), "no module 'poler'"),
        ("bert", peft.LoraConfig(r=8.5), "LORA does not fit bert"),
        ("bert", peft.LoraConfig(target_modules="(["), "LORA does not fit bert: unterminated character set"),
        ("bert", peft.LoraConfig(trainable_token_indices=[10**6]), "index 1000000 is out of bounds"),
        ("vit", peft.VeraConfig(r=0), "VERA does not fit vit"),
    ],
)
def test_unusable_configs_are_refused(family: str, config: peft.PeftConfig, words: str, classifier):
    loaded = classifier(family)
    with pytest.raises(InputError) as caught:
        add_adapter(loaded.model, config, loaded.fresh)
    assert words in str(caught.value) and "\n" not in str(caught.value)
