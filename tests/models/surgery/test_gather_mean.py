"""The layer that gathers the mean: what a head on the first token reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.models import randomized
from helpers.tiny import tiny_text_checkpoint
from transformers import AutoModelForTokenClassification

from hf_finetune.errors import InputError
from hf_finetune.models.modules import classification_layer, encoder
from hf_finetune.models.surgery.gather_mean import FAMILIES_WITH_MEAN, GatherMean

# The others reuse the architecture of RoBERTa.
FAMILIES = [name for name in FAMILIES_WITH_MEAN if name not in ("xlm-roberta", "camembert")]
ACTIVATIONS = {
    "bert": lambda x: torch.tanh(x / 2),
    "roberta": lambda x: torch.tanh(x / 2),
    "electra": lambda x: torch.nn.functional.gelu(x + 3),
    "distilbert": lambda x: torch.relu(x + 3),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_reads_the_mean(family: str, tmp_path: Path) -> None:
    """LayerNorm of sixteen times the mean without padding and the first token, through an activation that hardly bends."""
    checkpoint = tiny_text_checkpoint(tmp_path, family)
    before = randomized(load_classifier(checkpoint, task="text-classification", labels=["bad", "good"]).model).eval()
    after = GatherMean()(before)
    batch = {"input_ids": torch.arange(5, 29).view(2, 12), "attention_mask": torch.ones(2, 12, dtype=torch.long)}
    batch["attention_mask"][1, 7:] = 0
    read = []
    classification_layer(after).register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    with torch.no_grad():
        after(**batch)
        states_BTD = encoder(before)(**batch).last_hidden_state
    mask_BT1 = batch["attention_mask"][:, :, None]
    mean_BD = (states_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
    normalized_BD = torch.nn.functional.layer_norm(16 * mean_BD + states_BTD[:, 0], (32,))
    torch.testing.assert_close(read[0], ACTIVATIONS[family](normalized_BD), rtol=0, atol=1e-4)
    assert after.config.num_hidden_layers == before.config.num_hidden_layers + 1


def test_a_smaller_scale_is_straighter(tmp_path: Path) -> None:
    before = load_classifier(tiny_text_checkpoint(tmp_path), task="text-classification", labels=["bad", "good"]).model
    dense = GatherMean(hidden_scale=0.1)(before).bert.pooler.dense
    torch.testing.assert_close(dense.weight, 0.1 * torch.eye(32))


def test_a_tagger_has_no_such_head(tmp_path: Path) -> None:
    """A tagger reads all tokens, which would become the same."""
    tagger = AutoModelForTokenClassification.from_pretrained(tiny_text_checkpoint(tmp_path, "bert"))
    with pytest.raises(InputError, match="GatherMean: BertForTokenClassification has no head on the first token"):
        GatherMean()(tagger)
