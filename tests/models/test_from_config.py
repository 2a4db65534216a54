"""Randomly initialized networks of other sizes, and sizes that are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import check_config, load_classifier, load_tokenizer
from helpers.tiny import IMAGE_FAMILIES, TEXT_FAMILIES, tiny_image_checkpoint
from transformers import AutoModelForImageClassification

from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint import inspect_checkpoint
from hf_finetune.models.checkpoint_config import meta_classifier
from hf_finetune.models.modules import encoder

# Two layers instead of three, or other stages; all other fields are the checkpoint's.
SMALLER: dict[str, dict[str, Any]] = {
    "swin": {"depths": [1, 1], "embed_dim": 8, "num_heads": [2, 2]},
    "resnet": {"hidden_sizes": [8, 8], "depths": [1, 1]},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "efficientnet": {"num_block_repeats": [1, 1, 1]},
    "poolformer": {"depths": [1, 1, 1, 1]},
    # By its own field names, and by those of `attribute_map`.
    "distilbert": {"n_layers": 2, "hidden_size": 16},
    "dinov2": {"num_hidden_layers": 2, "hidden_size": 16},
}


def sizes(family: str) -> dict[str, Any]:
    return SMALLER.get(family, {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24})


def task_of(family: str) -> dict[str, Any]:
    kind = "image-classification" if family in IMAGE_FAMILIES else "text-classification"
    return {"task": kind, "labels": ("a", "b", "c")}


@pytest.mark.parametrize("family", TEXT_FAMILIES + IMAGE_FAMILIES)
def test_every_family_in_another_size(family: str, checkpoint, inputs, tmp_path: Path) -> None:
    """It has the requested sizes and weights from the seed, and reloads with plain transformers."""
    changes, folder = sizes(family), checkpoint(family)
    check_config(folder, from_config=changes, task=task_of(family)["task"])
    loaded = load_classifier(folder, **task_of(family), from_config=changes, seed=3)
    model = loaded.model.eval()
    for name, value in changes.items():
        actual = model.config.to_dict()[model.config.attribute_map.get(name, name)]
        assert (list(actual) if isinstance(value, list) else actual) == value
    assert loaded.fresh and all(not n.startswith(f"{model.base_model_prefix}.") for n in loaded.fresh)
    assert "none of its weights is used, all start at random from seed 3" in loaded.notes[-1]
    again = load_classifier(folder, **task_of(family), from_config=changes, seed=3).model
    other = load_classifier(folder, **task_of(family), from_config=changes, seed=4).model
    weights, same = model.state_dict(), again.state_dict()
    assert all(torch.equal(weights[n], same[n]) for n in weights)
    assert any(not torch.equal(weights[n], w) for n, w in other.state_dict().items())
    model.save_pretrained(tmp_path)
    plain = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.allclose(plain(**inputs(family)).logits, model(**inputs(family)).logits, atol=1e-5)
    meta = meta_classifier(inspect_checkpoint(folder), task_of(family)["task"], from_config=changes)
    assert meta is not None
    one, other = ([(n, p.shape) for n, p in encoder(m).named_parameters()] for m in (meta, model))
    assert one == other


def test_same_size_with_random_weights(checkpoint) -> None:
    pretrained, random = (
        load_classifier(checkpoint("vit"), **task_of("vit"), from_config=changes).model for changes in (None, {})
    )
    assert pretrained.config.hidden_size == random.config.hidden_size
    same = [n for n, w in pretrained.vit.named_parameters() if torch.equal(w, dict(random.vit.named_parameters())[n])]
    assert all(n.endswith("bias") or "norm" in n for n in same)


@pytest.mark.parametrize(
    ("family", "changes", "field", "words"),
    [
        ("vit", {"hiden_size": 8}, ".hiden_size", "did you mean 'hidden_size'?"),
        ("vit", {"depths": [1]}, ".depths", "no such field; known: attention_probs"),
        ("vit", {"num_labels": 3}, ".num_labels", "no such field"),
        ("bert", {"vocab_size": 10}, ".vocab_size", "expected no such field: it is that of the checkpoint's tokenizer"),
        ("bert", {"pad_token_id": 1}, ".pad_token_id", "expected no such field"),
        ("vit", {"num_channels": 1}, ".num_channels", "expected no such field"),
        ("vit", {"hidden_size": "big"}, ".hidden_size", "expected a whole number, got 'big'"),
        ("vit", {"hidden_size": True}, ".hidden_size", "expected a whole number, got True"),
        ("vit", {"num_hidden_layers": 0}, ".num_hidden_layers", "expected at least 1, got 0"),
        ("resnet", {"depths": [1, 1, 0, 1]}, ".depths", "expected at least 1, got"),
        ("vit", {"hidden_size": 30}, ".hidden_size", "expected a multiple of the 4 attention heads, got 30"),
        ("bert", {"num_attention_heads": 5}, ".hidden_size", "a multiple of the 5 attention heads, got 32"),
        ("swin", {"embed_dim": 15}, ".embed_dim", "expected a multiple of the 2 attention heads, got 15"),
        ("vit", {"image_size": 30}, ".image_size", "expected a multiple of patch_size 8, got 30"),
        ("vit", {"image_size": [32, 16]}, ".image_size", "expected one number"),
        ("vit", {"hidden_dropout_prob": 1.0}, ".hidden_dropout_prob", "expected at least 0 and below 1, got 1.0"),
        ("vit", {"layer_norm_eps": -1e-5}, ".layer_norm_eps", "expected 0 or more, got -1e-05"),
        ("vit", {"hidden_act": "gellu"}, ".hidden_act", "did you mean 'gelu'"),
        ("resnet", {"hidden_sizes": [8, 8]}, ".hidden_sizes", "expected 4 stages"),
        ("convnext", {"hidden_sizes": [8, 8], "depths": [1, 1]}, ".num_stages", "expected 2 stages"),
        ("resnet", {"layer_type": "odd"}, "", ""),
    ],
)
def test_invalid_fields_are_refused(checkpoint, family: str, changes: dict[str, Any], field: str, words: str) -> None:
    """The message is one line and names the field."""
    with pytest.raises(InputError) as refused:
        check_config(checkpoint(family), from_config=changes, task=task_of(family)["task"])
    message = str(refused.value)
    assert message.startswith(f"model.from_config{field}: ") and words in message and "\n" not in message


def test_unbuildable_networks_are_refused(checkpoint) -> None:
    """The number of EfficientNet's strides, for example, has no check of its own."""
    with pytest.raises(
        InputError, match=r"^model.from_config: no efficientnet can be built from these fields: "
    ) as refused:
        check_config(checkpoint("efficientnet"), from_config={"strides": [1]}, task="image-classification")
    assert "\n" not in str(refused.value)


def test_positions_follow_the_changed_config(checkpoint) -> None:
    """Rows of RoBERTa's table up to the padding index are no positions."""
    changes = {"max_position_embeddings": 130}
    folder = checkpoint("roberta")
    tokenizer = load_tokenizer(folder, max_length=128, from_config=changes, sample=[])
    assert tokenizer.model_max_length == 128
    with pytest.raises(InputError, match=r"data.max_length: 129, but .* has positions for 128 tokens"):
        load_tokenizer(folder, max_length=129, from_config=changes, sample=[])


def test_the_saved_network_is_a_stock_one(tmp_path: Path) -> None:
    folder = tiny_image_checkpoint(tmp_path / "vit", "vit")
    model = load_classifier(folder, **task_of("vit"), from_config={"image_size": 16, "patch_size": 4}).model
    model.save_pretrained(tmp_path / "saved")
    plain = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    assert plain.config.image_size == 16 and plain.config.id2label == {0: "a", 1: "b", 2: "c"}
