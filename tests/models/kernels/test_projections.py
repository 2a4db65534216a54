from pathlib import Path

import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.tiny import IMAGE_FAMILIES, TEXT_FAMILIES, tiny_image_checkpoint, tiny_text_checkpoint
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from hf_finetune.models.families import FAMILIES
from hf_finetune.models.kernels.projections import fused_projections
from hf_finetune.models.loading import Loaded
from hf_finetune.models.peft.adapters import add_adapter, lora_config
from hf_finetune.models.peft.config import Lora

# ModernBERT has one projection of its own, convolutional networks none.
FUSED = [family for family in (*TEXT_FAMILIES, *IMAGE_FAMILIES) if FAMILIES[family].attention is not None]


def loaded(folder: Path, family: str) -> tuple[Loaded, dict[str, torch.Tensor]]:
    text = family in TEXT_FAMILIES
    checkpoint = (tiny_text_checkpoint if text else tiny_image_checkpoint)(folder, family)
    task = "text-classification" if text else "image-classification"
    generator = torch.Generator().manual_seed(0)
    if text:
        inputs = {"input_ids": torch.randint(5, 60, (3, 9), generator=generator)}
    else:
        inputs = {"pixel_values": torch.randn(3, 3, 32, 32, generator=generator)}
    return load_classifier(str(checkpoint), task=task, labels=("no", "yes"), dropout=0.0), inputs


def products(model: nn.Module, inputs: dict[str, torch.Tensor]) -> int:
    """Count the calls of the linear function in a forward pass."""
    called = []
    before = nn.functional.linear

    def counted(*args: torch.Tensor) -> torch.Tensor:
        called.append(args)
        return before(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "linear", counted)
        model(**inputs)
    return len(called)


@pytest.mark.parametrize("family", FUSED)
def test_same_logits_and_gradients_with_fewer_products(tmp_path: Path, family: str) -> None:
    actual, inputs = loaded(tmp_path, family)
    model = actual.model.train()
    names, apart = list(model.state_dict()), products(model, inputs)

    def step() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        logits = model(**inputs).logits
        logits[:, 0].square().sum().backward()
        return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    logits, gradients = step()
    with fused_projections(model):
        assert list(model.state_dict()) == names
        together = products(model, inputs)
        fused_logits, fused_gradients = step()
    # Two products fewer in each of the three layers; Swin has four, in stages.
    assert apart - together == 2 * (4 if family == "swin" else 3)
    assert torch.allclose(logits, fused_logits, atol=1e-5)
    assert gradients.keys() == fused_gradients.keys()
    scale = max(float(g.abs().max()) for g in gradients.values())
    assert all(torch.allclose(g, fused_gradients[n], atol=1e-5 * max(1.0, scale)) for n, g in gradients.items())
    assert products(model, inputs) == apart and not any(hasattr(m, "together") for m in model.modules())


def test_layers_with_an_adapter_are_not_fused(tmp_path: Path) -> None:
    actual, inputs = loaded(tmp_path, "bert")
    adapted = add_adapter(actual.model, lora_config(actual.model, Lora(), fresh=actual.fresh), actual.fresh)
    before, apart = adapted(**inputs).logits, products(adapted, inputs)
    with fused_projections(adapted):
        assert products(adapted, inputs) == apart
        assert torch.equal(adapted(**inputs).logits, before)


def test_layers_with_different_inputs_are_not_fused() -> None:
    """In MobileBERT, value reads the full hidden states, query and key those of the bottleneck."""
    sizes = {"hidden_size": 32, "embedding_size": 16, "intra_bottleneck_size": 16, "intermediate_size": 32}
    model = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model("mobilebert", vocab_size=64, num_hidden_layers=2, num_attention_heads=2, **sizes)
    ).eval()
    inputs = {"input_ids": torch.arange(5, 23).view(2, 9)}
    before, apart = model(**inputs).logits, products(model, inputs)
    with fused_projections(model):
        assert products(model, inputs) == apart and torch.equal(model(**inputs).logits, before)


def test_outputs_can_be_changed_in_place() -> None:
    """As Longformer does to scale its queries."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "attention_window": [4], "max_position_embeddings": 40}
    model = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model("longformer", vocab_size=64, num_hidden_layers=1, num_attention_heads=2, **sizes)
    ).eval()
    inputs = {"input_ids": torch.arange(5, 23).view(2, 9)}
    before = model(**inputs).logits
    with fused_projections(model):
        after = model(**inputs).logits
        after.sum().backward()
    assert torch.allclose(before, after, atol=1e-6)


def test_frozen_parts_stay_frozen(tmp_path: Path) -> None:
    """One frozen projection gets no gradient, the others do."""
    actual, inputs = loaded(tmp_path, "bert")
    layer = actual.model.bert.encoder.layer[0].attention.self
    layer.key.requires_grad_(False)
    with fused_projections(actual.model):
        actual.model(**inputs).logits.sum().backward()
    assert layer.key.weight.grad is None
    assert layer.query.weight.grad is not None and layer.value.weight.grad.abs().max() > 0
