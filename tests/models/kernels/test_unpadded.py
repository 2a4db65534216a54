"""A packed batch gives the logits and gradients of a padded one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.tiny import TEXT_FAMILIES, tiny_text_checkpoint, tiny_tokenizer
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_finetune.data.tokens import pack, pad
from hf_finetune.errors import InputError
from hf_finetune.models.kernels import unpadded
from hf_finetune.models.kernels.narrow_last_layer import narrow_to_first_token
from hf_finetune.models.loading import Loaded
from hf_finetune.models.peft import adapters
from hf_finetune.models.peft.config import Lora

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LENGTHS = (5, 40, 12, 40, 3)
LABELS = torch.tensor([0, 1, 2, 0, 1])


def token_columns(family: str) -> dict[str, list[np.ndarray]]:
    """Five rows of random tokens, longer than ModernBERT's window; pairs if the family has token types."""
    rng = np.random.default_rng(0)
    columns = {"input_ids": [rng.integers(5, 90, n) for n in LENGTHS]}
    if "token_type_ids" in tiny_tokenizer(family).model_input_names:
        columns["token_type_ids"] = [(np.arange(n) > n // 2).astype(np.int64) for n in LENGTHS]
    return columns


def padded(family: str) -> dict[str, torch.Tensor]:
    return pad(token_columns(family), {"input_ids": tiny_tokenizer(family).pad_token_id, "token_type_ids": 0})


def logits_and_gradients(model: nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    output = model(**batch, labels=LABELS)
    output.loss.backward()
    return output.logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("family", "config"),
    [*((f, {}) for f in unpadded.FAMILIES), ("modernbert", {"classifier_pooling": "mean"})],
    ids=str,
)
def test_packed_equals_padded(tmp_path: Path, family: str, config: dict, attention: str) -> None:
    checkpoint = tiny_text_checkpoint(tmp_path, family, **({"classifier_pooling": "cls"} | config))
    model = load_classifier(
        checkpoint, task="text-classification", labels=["a", "b", "c"], dropout=0.0, attn_implementation=attention
    ).model
    logits, gradients = logits_and_gradients(model, padded(family))
    weights = list(model.state_dict())
    unpadded.accept_packed(model)
    packed_logits, packed_gradients = logits_and_gradients(model, pack(token_columns(family)))
    assert torch.allclose(packed_logits, logits, atol=1e-5, rtol=0)
    assert packed_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(packed_gradients[name], gradient, atol=1e-5, rtol=0), name
    assert torch.equal(model(**padded(family)).logits, logits), "ordinary batches go through as before"
    assert list(model.state_dict()) == weights


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_through_an_adapter(classifier: Callable[..., Loaded], family: str) -> None:
    """ModernBERT calls its encoder `model`, as PEFT calls the wrapped classifier."""
    loaded = classifier(family, dropout=0.0)
    config = adapters.lora_config(loaded.model, Lora(), fresh=loaded.fresh)
    model = adapters.add_adapter(loaded.model, config, loaded.fresh, seed=0).eval()
    expected = model(**padded(family)).logits
    unpadded.accept_packed(model)
    assert torch.allclose(model(**pack(token_columns(family))).logits, expected, atol=1e-5)


def test_packed_sequences_do_not_attend_to_each_other(classifier: Callable[..., Loaded]) -> None:
    """The logits of the first sequence stay the same if the others change."""
    model = classifier("bert").model.eval()
    unpadded.accept_packed(model)
    columns = token_columns("bert")
    before = model(**pack(columns)).logits
    columns["input_ids"][1:] = [ids[::-1].copy() for ids in columns["input_ids"][1:]]
    after = model(**pack(columns)).logits
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1:], before[1:], atol=1e-3)


@pytest.mark.parametrize("family", unpadded.FAMILIES)
def test_flash_kernel_gets_the_sequence_bounds(
    classifier: Callable[..., Loaded], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets no mask; a substitute that attends by sequence, as the real kernel does, gives the padded logits."""
    model = classifier(family).model.eval()
    expected = model(**padded(family)).logits
    layers = []

    def row_by_row(module, query, key, value, attention_mask, scaling=None, sliding_window=None, **kwargs):
        assert attention_mask is None and kwargs["max_length_q"] == kwargs["max_length_k"] == max(LENGTHS)
        assert torch.equal(kwargs["cu_seq_lens_q"], kwargs["cu_seq_lens_k"])
        layers.append(module)
        rows = []
        for start, end in zip(kwargs["cu_seq_lens_q"][:-1], kwargs["cu_seq_lens_q"][1:], strict=True):
            scores = query[0, :, start:end] @ key[0, :, start:end].transpose(1, 2) * scaling
            if sliding_window is not None:
                places = torch.arange(scores.shape[-1])
                far = (places[:, None] - places).abs() >= sliding_window
                scores = scores.masked_fill(far, -torch.inf)
            rows.append(scores.softmax(-1) @ value[0, :, start:end])
        return torch.cat(rows, 1).transpose(0, 1)[None], None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, unpadded.FLASH, row_by_row)
    # Not with set_attn_implementation, which would look for the package.
    model.config._attn_implementation = unpadded.FLASH
    unpadded.accept_packed(model)
    assert torch.allclose(model(**pack(token_columns(family))).logits, expected, atol=1e-5)
    assert len(layers) == 3


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_no_mask_equals_a_mask_of_ones(classifier: Callable[..., Loaded], family: str) -> None:
    """Bit by bit, so that batches without padding need no mask."""
    model = classifier(family).model.eval()
    ids = torch.from_numpy(np.random.default_rng(0).integers(5, 90, (4, 20)))
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits)


def test_when_unpadded_is_used(classifier: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch) -> None:
    bert, deberta = classifier("bert").model, classifier("deberta-v2").model
    half = {"device": CUDA, "autocast": torch.bfloat16}
    assert not unpadded.use_unpadded(None, bert, **half), "flash-attn is not installed"
    monkeypatch.setattr(unpadded, "is_flash_attn_2_available", lambda: True)
    assert unpadded.use_unpadded(None, bert, **half)
    assert not unpadded.use_unpadded(False, bert, **half)
    assert not unpadded.use_unpadded(None, bert, device=CUDA, autocast=None), "its kernels know half precision only"
    assert not unpadded.use_unpadded(None, bert, device=CPU, autocast=torch.bfloat16)
    assert unpadded.use_unpadded(True, bert, device=CPU, autocast=None)
    assert not unpadded.use_unpadded(None, deberta, **half)
    with pytest.raises(InputError, match=r"batching.unpadded: expected false .*deberta-v2 is none of bert, roberta"):
        unpadded.use_unpadded(True, deberta, **half)
    assert not unpadded.use_unpadded(None, bert, **half, reason="prompts")
    with pytest.raises(InputError, match="got true: prompts"):
        unpadded.use_unpadded(True, bert, **half, reason="prompts")


def test_attention_kernel_is_restored(classifier: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier("bert", attn_implementation="eager").model
    monkeypatch.setattr(unpadded, "FLASH", "sdpa")
    with pytest.raises(KeyError), unpadded.flash_attention(model):
        assert model.bert.config._attn_implementation == "sdpa"
        raise KeyError
    assert model.bert.config._attn_implementation == "eager"


def test_narrowed_last_layer_is_refused(classifier: Callable[..., Loaded]) -> None:
    """It would give every sequence the vector of the first one."""
    model = classifier("bert").model.eval()
    unpadded.accept_packed(model)
    narrow_to_first_token(model)
    with pytest.raises(AssertionError, match="all tokens of the last layer"):
        model(**pack(token_columns("bert")))
