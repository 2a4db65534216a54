from pathlib import Path

import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.tiny import TEXT_FAMILIES, tiny_text_checkpoint
from torch import nn

from hf_finetune.models import families as known
from hf_finetune.models.kernels import layer_function
from hf_finetune.models.kernels import layers as module
from hf_finetune.models.kernels.layer_function import EncoderLayer
from hf_finetune.models.kernels.layers import Fused, fused_layers
from hf_finetune.models.kernels.narrow_last_layer import narrow_to_first_token
from hf_finetune.models.kernels.shortcuts import Shortcuts
from hf_finetune.models.loading import Loaded
from hf_finetune.models.modules import encoder_layers
from hf_finetune.models.peft.adapters import add_adapter, lora_config
from hf_finetune.models.peft.config import Lora

FAMILIES = [family for family in TEXT_FAMILIES if known.FAMILIES[family].fused]


def loaded(folder: Path, family: str, *, dropout: float = 0.0) -> Loaded:
    checkpoint = tiny_text_checkpoint(folder, family)
    return load_classifier(
        str(checkpoint), task="text-classification", labels=("no", "yes"), dropout=dropout, attn_implementation="eager"
    )


def batch(*, padded: bool = False) -> dict[str, torch.Tensor]:
    inputs = {"input_ids": torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(0))}
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:] = 0
    return {**inputs, "attention_mask": mask} if padded else inputs


def step(model: nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return logits and gradients of a loss with a different weight for every logit."""
    model.zero_grad()
    logits = model(**inputs).logits.float()
    (logits * torch.tensor([1.0, -2.0])).square().sum().backward()
    return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Count the calls of the function."""
    made: list[object] = []
    apply = EncoderLayer.apply

    class Counted:
        @staticmethod
        def apply(*args: object) -> torch.Tensor:
            made.append(args)
            return apply(*args)

    monkeypatch.setattr(module, "EncoderLayer", Counted)
    return made


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_same_logits_and_gradients(tmp_path: Path, calls: list[object], family: str, first: bool, padded: bool) -> None:
    model = loaded(tmp_path, family).model.train()
    inputs, names = batch(padded=padded), list(model.state_dict())
    handle = narrow_to_first_token(model)
    assert handle is not None
    if not first:
        handle.remove()
    logits, gradients = step(model, inputs)
    with fused_layers(model):
        assert list(model.state_dict()) == names
        fused_logits, fused_gradients = step(model, inputs)
    assert len(calls) == len(encoder_layers(model)) == 3
    assert torch.allclose(logits, fused_logits, atol=1e-6)
    assert gradients.keys() == fused_gradients.keys()
    scale = max(float(g.abs().max()) for g in gradients.values())
    assert all(torch.allclose(g, fused_gradients[n], atol=1e-5 * max(1.0, scale)) for n, g in gradients.items())
    step(model, inputs)
    assert len(calls) == 3, "afterwards the model is as before"


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_same_logits_without_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool, padded: bool
) -> None:
    """Longer texts take torch's attention kernel; with a gradient it is not taken."""
    model, kernel = loaded(tmp_path, "bert").model.eval(), nn.functional.scaled_dot_product_attention
    taken: list[int] = []

    def counted(query: torch.Tensor, *others: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        taken.append(query.shape[2])
        return kernel(query, *others, **named)

    monkeypatch.setattr(layer_function, "FLASH", 9)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", counted)
    handle = narrow_to_first_token(model)
    assert handle is not None
    if not first:
        handle.remove()
    inputs = batch(padded=padded)
    with torch.no_grad():
        expected = model(**inputs).logits
        with fused_layers(model):
            actual = model(**inputs).logits
            model(**{name: values[:, :8] for name, values in inputs.items()})
    assert taken == [9, 9, 1 if first else 9]
    assert torch.allclose(actual, expected, atol=1e-6)
    with fused_layers(model):
        model(**inputs).logits.sum().backward()
    assert len(taken) == 3


def test_bfloat16_error_matches_the_library(tmp_path: Path) -> None:
    model, inputs = loaded(tmp_path, "bert").model.train(), batch(padded=True)
    _, exact = step(model, inputs)

    def error() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, actual = step(model, inputs)
        assert all(g.dtype == torch.float32 for g in actual.values())
        return sum(float((g - exact[n]).square().sum()) for n, g in actual.items()) ** 0.5

    library = error()
    with fused_layers(model):
        assert 0 < error() < 1.5 * library


def test_gradient_uses_the_dropout_masks(tmp_path: Path) -> None:
    """With fixed masks the gradient equals finite differences."""
    model = loaded(tmp_path, "bert", dropout=0.5).model.train().double()
    embedded = torch.randn(3, 9, model.config.hidden_size, dtype=torch.float64, requires_grad=True)
    layer = encoder_layers(model)[0]
    with fused_layers(model, shared_masks=False):

        def output(x: torch.Tensor) -> torch.Tensor:
            torch.manual_seed(0)
            return layer(x)

        assert torch.autograd.gradcheck(output, (embedded,), eps=1e-6, atol=1e-6, fast_mode=True)
        assert not torch.equal(layer(embedded), layer(embedded)), "drawn anew"
        model.eval()
        assert torch.equal(layer(embedded), layer(embedded))


def test_frozen_weights_get_no_gradient(tmp_path: Path) -> None:
    model = loaded(tmp_path, "bert").model.train()
    lowest, middle, _ = encoder_layers(model)
    for frozen in (model.bert.embeddings, lowest, middle.attention.self.key, middle.output.dense.weight):
        frozen.requires_grad_(False)
    _, gradients = step(model, batch())
    with fused_layers(model):
        _, fused = step(model, batch())
    assert gradients.keys() == fused.keys()
    assert not any("layer.0." in name or ("self.key" in name and "layer.1" in name) for name in fused)
    assert all(torch.allclose(g, fused[n], atol=1e-5) for n, g in gradients.items())


@pytest.mark.parametrize("what", ["lora", "relu", "hook", "forward", "sdpa", "attentions", "albert"])
def test_other_layers_are_not_fused(tmp_path: Path, calls: list[object], what: str) -> None:
    actual = loaded(tmp_path, "albert" if what == "albert" else "bert")
    model, options = actual.model.eval(), {}
    if what == "lora":
        config = lora_config(model, Lora(), fresh=actual.fresh)
        config.target_modules = ["query", "key", "value", "dense"]
        model = add_adapter(model, config, actual.fresh)
    elif what == "relu":
        for layer in encoder_layers(model):
            layer.intermediate.intermediate_act_fn = nn.ReLU()
    elif what == "hook":
        for layer in encoder_layers(model):
            layer.intermediate.register_forward_hook(lambda *_: None)
    elif what == "forward":
        for layer in encoder_layers(model):
            layer.output.dense.forward = lambda x: x[..., : model.config.hidden_size]
    elif what == "sdpa":
        model.set_attn_implementation("sdpa")
    elif what == "attentions":
        options = {"output_attentions": True}
    before = model(**batch(), **options)
    with fused_layers(model):
        after = model(**batch(), **options)
    assert torch.equal(before.logits, after.logits)
    if what == "attentions":
        assert len(after.attentions) == 3
    else:
        assert not calls


def test_shortcuts_are_fields_and_end(tmp_path: Path) -> None:
    model = loaded(tmp_path, "bert", dropout=0.1).model

    def taken() -> tuple[bool, bool, bool]:
        layer = encoder_layers(model)[0]
        dropout = type(layer.output.dropout) is not nn.Dropout
        return dropout, isinstance(layer, Fused), type(layer.attention.self.key) is not nn.Linear

    for requested in ((True, True, True), (False, True, False), (True, False, True), (False, False, False)):
        with Shortcuts(*requested).use(model):
            assert taken() == requested
        assert taken() == (False, False, False)
