"""Positions for longer texts repeat the first ones, and reload with plain transformers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import load_classifier, load_tokenizer
from helpers.tiny import TEXT_FAMILIES, tiny_text_checkpoint
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from hf_finetune.errors import InputError
from hf_finetune.models.surgery.positions import ExtendPositions, length_after, repeat_rows

# All but ModernBERT, which has no table of positions.
FAMILIES = [family for family in TEXT_FAMILIES if family != "modernbert"]
# Families without a tiny checkpoint.
KIN = {"xlm-roberta": 2, "camembert": 2, "deberta": 0}


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[PreTrainedModel, PreTrainedModel]]:
    """Return the family's classifier with 64 positions, and extended to 150."""

    def make(family: str) -> tuple[PreTrainedModel, PreTrainedModel]:
        if family in KIN:
            small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
            config = AutoConfig.for_model(family, vocab_size=120, initializer_range=0.1, **small)
            config.max_position_embeddings = 64 + KIN[family]
            if family == "deberta":
                config.relative_attention, config.pos_att_type = True, ["c2p", "p2c"]
            with torch.random.fork_rng():
                torch.manual_seed(0)
                before = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
            return before, ExtendPositions(150)(before)
        own = {"position_biased_input": True} if family == "deberta-v2" else {}
        folder = tiny_text_checkpoint(tmp_path_factory.mktemp("tiny"), family, **own)
        before = load_classifier(folder, task="text-classification", labels=["a", "b"]).model.eval()
        return before, ExtendPositions(150)(before)

    return make


def test_table_by_hand() -> None:
    table = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    assert repeat_rows(table, 6, 0)[:, 0].tolist() == [0, 1, 2, 3, 0, 1]
    # After a padding row, which is no position.
    assert repeat_rows(table, 6, 2)[:, 0].tolist() == [0, 1, 2, 3, 2, 3]
    assert repeat_rows(table, 10, 1)[:, 0].tolist() == [0, 1, 2, 3, 1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("family", [*FAMILIES, *KIN])
def test_short_texts_as_before_and_long_ones_reload(family: str, extended: Callable, tmp_path: Path) -> None:
    before, after = extended(family)
    ids = torch.randint(5, 100, (2, 150), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 40:] = 0
    ids[1, 40:] = before.config.pad_token_id
    short = {"input_ids": ids[:, :64], "attention_mask": mask[:, :64]}
    with torch.no_grad():
        assert torch.allclose(after(**short).logits, before(**short).logits, atol=1e-6)
        with pytest.raises((IndexError, RuntimeError)):
            before(input_ids=ids, attention_mask=mask)
        long = after(input_ids=ids, attention_mask=mask).logits
    # Tokens after the 64th change the logits.
    assert not torch.allclose(long[0], after(**short).logits[0], atol=1e-4)
    after.save_pretrained(tmp_path)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation="eager").eval()
    with torch.no_grad():
        assert torch.allclose(stock(input_ids=ids, attention_mask=mask).logits, long, atol=1e-6)
    table = next(t for n, t in stock.named_parameters() if n.endswith("position_embeddings.weight"))
    first = len(table) - 150
    assert first == (2 if family in ("roberta", "mpnet") else KIN.get(family, 0))
    assert torch.equal(table[first : first + 64], table[first + 64 : first + 128])


def test_tokenizer_accepts_the_new_length(checkpoint: Callable) -> None:
    with pytest.raises(InputError, match=r"^data\.max_length: 150, but .* has positions for 64 tokens"):
        load_tokenizer(checkpoint("roberta"), max_length=150, sample=[])
    with pytest.raises(InputError, match=r"^data\.max_length: 151, but .* has positions for 150 tokens"):
        load_tokenizer(checkpoint("roberta"), max_length=151, positions=150, sample=[])
    tokenizer = load_tokenizer(checkpoint("roberta"), max_length=150, positions=150, sample=[])
    assert tokenizer.model_max_length == 150


def test_last_length_counts() -> None:
    assert length_after([]) is None
    assert length_after([ExtendPositions(600), ExtendPositions(900)]) == 900
