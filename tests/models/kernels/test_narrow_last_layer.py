"""A last layer narrowed to the first token gives the same logits and gradients."""

from pathlib import Path

import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.tiny import TEXT_FAMILIES, tiny_image_checkpoint, tiny_text_checkpoint

from hf_finetune.models.families import FAMILIES
from hf_finetune.models.kernels.narrow_last_layer import narrow_to_first_token


@pytest.mark.parametrize("attention", ["eager", None])
@pytest.mark.parametrize("family", [f for f in TEXT_FAMILIES if FAMILIES[f].tokenwise_from])
def test_same_numbers(tmp_path: Path, family: str, attention: str | None) -> None:
    tiny_text_checkpoint(tmp_path, family)
    model = load_classifier(
        tmp_path, task="text-classification", labels=("a", "b", "c"), attn_implementation=attention
    ).model.eval()
    ids, mask = torch.randint(10, 60, (4, 9)), torch.ones(4, 9, dtype=torch.long)
    mask[1, 4:] = 0
    labels = torch.tensor([0, 1, 2, 0])

    def numbers() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        logits = model(input_ids=ids, attention_mask=mask).logits
        torch.nn.functional.cross_entropy(logits, labels).backward()
        return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    whole, whole_gradients = numbers()
    seen = []
    handle = narrow_to_first_token(model)
    assert handle is not None
    last = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.in_features == 64][-1]
    counter = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    alone, gradients = numbers()
    assert seen == [1]
    assert torch.allclose(alone, whole, atol=1e-6)
    assert gradients.keys() == whole_gradients.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, whole_gradients[name], atol=1e-6), name
    counter.remove()
    handle.remove()
    assert torch.equal(numbers()[0], whole)


def test_families_that_read_other_tokens_are_not_narrowed(tmp_path: Path) -> None:
    for family in ("modernbert", "albert"):
        tiny_text_checkpoint(tmp_path / family, family)
        model = load_classifier(tmp_path / family, task="text-classification", labels=("a", "b")).model
        assert narrow_to_first_token(model) is None
    tiny_image_checkpoint(tmp_path / "vit")
    assert (
        narrow_to_first_token(load_classifier(tmp_path / "vit", task="image-classification", labels=("a", "b")).model)
        is None
    )
