"""Recorded features equal those that transformers returns, in every family that has them."""

from pathlib import Path

import pytest
import torch
from helpers.checkpoints import load_classifier, load_image_processor, load_tokenizer
from helpers.small_runs import image_rows, text_rows
from helpers.tiny import IMAGE_FAMILIES, KIN, TEXT_FAMILIES, tiny_image_checkpoint, tiny_text_checkpoint
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.data.inputs import ImageInputs, TextInputs
from hf_finetune.distillation.config import AttentionMaps, AttentionRelations, Embedding, FeatureKind, HiddenStates
from hf_finetune.distillation.feature_matching.recorder import EmbeddingModel, FeatureRecorder
from hf_finetune.distillation.losses.base import Features, Networks, RequiredFeatures
from hf_finetune.distillation.losses.functional import log_attention_map
from hf_finetune.errors import InputError
from hf_finetune.models.families import tokens_before_patches
from hf_finetune.models.kernels.layers import Fused, fused_layers
from hf_finetune.models.kernels.narrow_last_layer import all_tokens, narrow_to_first_token

ALL = frozenset(range(4))


def classifier_and_batch(folder: Path, family: str) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """Build a tiny classifier without dropout, and a batch, padded if it is of texts."""
    if family in TEXT_FAMILIES:
        checkpoint, task = tiny_text_checkpoint(folder, family), "text-classification"
        inputs = TextInputs(load_tokenizer(str(checkpoint), max_length=16, sample=[]), 16)
        batch = inputs.collate(inputs.encode_batch({"text": ["good film", *text_rows(3)["text"][:]]}))
        assert (batch["attention_mask"] == 0).any()
    else:
        checkpoint, task = tiny_image_checkpoint(folder, family), "image-classification"
        inputs = ImageInputs(load_image_processor(str(checkpoint)))
        batch = inputs.collate(image_rows(3)[:])
    return load_classifier(str(checkpoint), task=task, labels=("no", "yes"), dropout=0.0, seed=0).model.eval(), batch


def recorded(model: nn.Module, batch: dict[str, torch.Tensor], required: RequiredFeatures) -> Features:
    recorder = FeatureRecorder(model, required)
    model(**batch)
    with recorder.recording(batch) as states:
        model(**batch)
    recorder.close()
    with recorder.recording(batch) as idle:
        model(**batch)
    assert idle == Features(batch.get("attention_mask"))
    return states


@pytest.mark.parametrize(
    "family", [family for family in HiddenStates.families if family in (*TEXT_FAMILIES, *IMAGE_FAMILIES, *KIN)]
)
def test_recorded_features(tmp_path: Path, family: str) -> None:
    """Hidden states equal `output_hidden_states` (below a final norm), attention `output_attentions`, embeddings values
    by hand."""
    model, batch = classifier_and_batch(tmp_path, family)
    model.set_attn_implementation("eager")
    for name, parameter in model.named_parameters():
        if "relative" in name:
            # BEiT's position biases start at 0, and would add nothing.
            torch.nn.init.normal_(parameter)
    expected = model(**batch, output_hidden_states=True, output_attentions=True)
    layers = frozenset({1, 3}) if family in AttentionRelations.families else frozenset()
    states = recorded(model, batch, RequiredFeatures(ALL, layers, frozenset({"mean", "cls"})))
    assert len(states.hidden) == 4
    for layer, theirs in enumerate(expected.hidden_states[:-1]):
        assert torch.equal(states.hidden[layer], theirs)
    assert states.attention.keys() == layers
    for layer in layers:
        projected = states.attention[layer]
        attention = log_attention_map(states, layer, model.config.num_attention_heads)
        close = torch.allclose(attention.exp(), expected.attentions[layer - 1], atol=1e-6)
        assert close == (family in AttentionMaps.families)
        assert projected["value"].shape == projected["query"].shape and not torch.equal(
            projected["value"], projected["query"]
        )
    last_BTD = model.base_model(**batch).last_hidden_state
    mask_BT1 = torch.ones(last_BTD.shape[:2]) if states.mask_BT is None else states.mask_BT
    mask_BT1 = mask_BT1.clone().float()[:, :, None]
    mask_BT1[:, : tokens_before_patches(model.config)] = 0
    assert torch.allclose(states.pooled["mean"], (last_BTD * mask_BT1).sum(1) / mask_BT1.sum(1), atol=1e-6)
    assert torch.equal(states.pooled["cls"], last_BTD[:, 0])


def test_tokens_before_the_patches_are_skipped(tmp_path: Path) -> None:
    """Sixteen patches of 8 pixels follow CLS and two registers."""
    model, batch = classifier_and_batch(tmp_path, "dinov2_with_registers")
    assert tokens_before_patches(model.config) == 3
    states = recorded(model, batch, RequiredFeatures(ALL, frozenset({2}), skipped_tokens=3))
    assert {x.shape[1] for x in (*states.hidden.values(), *states.attention[2].values())} == {16}
    all_tokens_features = recorded(model, batch, RequiredFeatures(ALL))
    assert torch.equal(all_tokens_features.hidden[1][:, 3:], states.hidden[1])


def test_embeddings_of_a_narrowed_model(tmp_path: Path) -> None:
    """Embeddings cover all tokens; the model stays narrowed, and in its mode."""
    model, batch = classifier_and_batch(tmp_path, "bert")
    expected = EmbeddingModel(model, "mean")(**batch).logits
    logits = model(**batch).logits
    narrow_to_first_token(model)
    assert model.base_model(**batch).last_hidden_state.shape[1] == 1
    embedder = EmbeddingModel(model, "mean")
    assert torch.equal(embedder(**batch).logits, expected) and not embedder.training
    with all_tokens(model):
        assert model.base_model(**batch).last_hidden_state.shape[1] > 1
    assert model.base_model(**batch).last_hidden_state.shape[1] == 1
    assert torch.allclose(model(**batch).logits, logits, atol=1e-6)


def test_a_layer_with_hooks_is_not_fused(tmp_path: Path) -> None:
    """The other layers are fused, with the same hidden states."""
    model, batch = classifier_and_batch(tmp_path, "bert")
    expected = recorded(model, batch, RequiredFeatures(ALL, frozenset({3})))
    recorder = FeatureRecorder(model, RequiredFeatures(ALL, frozenset({3})))
    with fused_layers(model, shared_masks=False):
        assert [isinstance(layer, Fused) for layer in model.base_model.encoder.layer] == [True, True, False]
        with recorder.recording(batch) as states:
            model(**batch)
    assert all(torch.allclose(states.hidden[layer], expected.hidden[layer], atol=1e-5) for layer in range(4))
    assert torch.allclose(states.attention[3]["query"], expected.attention[3]["query"], atol=1e-5)


@pytest.mark.parametrize(
    ("family", "kind", "reason"),
    [
        ("mpnet", AttentionMaps(), "attention maps .* in .*bert, "),
        ("deberta-v2", AttentionRelations(), "queries, keys and values .* not in deberta-v2"),
        ("albert", HiddenStates(), "layers of one width .* not in albert"),
        ("swin", Embedding("cls"), "a first token stands for a row .* not in swin"),
        ("poolformer", Embedding(), "rows are pooled in .*bert, .* not in poolformer"),
    ],
)
def test_families_without_the_features_are_refused(family: str, kind: FeatureKind, reason: str) -> None:
    known, other = PreTrainedConfig(), PreTrainedConfig()
    known.model_type, other.model_type = "bert", family
    for networks, role in ((Networks(other, known), "student"), (Networks(known, other), "teacher")):
        with pytest.raises(InputError, match=f"^{type(kind).__name__} of the {role}: {reason}"):
            kind.required(networks)
