"""Batches whose rows are mixed with one another, on their way from the loader to the loss; see `augmentation.mixing`.

Legend: B rows, C classes, T tokens.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from hf_finetune.augmentation.mixing import Mixing
from hf_finetune.augmentation.online import AugmentedRows, MixedRows, collate_mixed
from hf_finetune.data.inputs import EpochRows, Rows
from hf_finetune.evaluation.logits import evaluating
from hf_finetune.training.hooks import Batch, Collate, Hook

# Logits of a batch by its ids and by its word embeddings: the same numbers added up in another order.
TOLERANCE = 1e-4


class InputMixing(Hook):
    """Mixes the rows of every micro-batch by one of several operations. Not with packed batches.

    Args:
        operations: one is drawn for each micro-batch.
        seed: of the run.
    """

    numbers_repeats = True

    def __init__(self, operations: tuple[Mixing, ...], seed: int) -> None:
        self.operations, self.seed = operations, seed

    def on_loader(self, rows: EpochRows, collate: Collate) -> tuple[EpochRows, Collate]:
        """Choose partners and shares, and mix images, while a batch is made."""
        assert isinstance(rows, Rows | AugmentedRows), "rows with a label"
        return MixedRows(rows, self.seed), partial(collate_mixed, self.operations, collate)

    def on_inputs(self, model: PreTrainedModel, batch: Batch) -> Batch:
        """Mix word embeddings and labels."""
        return mixed_inputs(model, batch) if "partners" in batch else batch


def soft_labels(labels_B: torch.Tensor, partners_B: torch.Tensor, shares_B: torch.Tensor, classes: int) -> torch.Tensor:
    """How much of each class is in a mixed row: its share on its own class, the rest on its partner's.

    Args:
        labels_B: shape (B,), class indices.
        partners_B: shape (B,), index of each row's partner.
        shares_B: shape (B,), from 0 to 1.

    Returns:
        Shape (B, C), float32; each row sums to 1.
    """
    own_BC = F.one_hot(labels_B, classes).float()
    return shares_B[:, None] * own_BC + (1 - shares_B[:, None]) * own_BC[partners_B]


def mixed_inputs(model: PreTrainedModel, inputs: Batch) -> Batch:
    """A mixed batch with soft labels, and of texts the mixed word embeddings in place of ids.

    The table is read once for every token, so its gradient is of the words that the batch has, row-sparse where it was.

    Args:
        model: a classifier with `get_input_embeddings`, without the process group's wrapper.
        inputs: the batch, on the model's device. It stays as it is.
    """
    left = dict(inputs)
    partners_B, shares_B = left.pop("partners"), left.pop("shares")
    left["labels"] = soft_labels(left["labels"], partners_B, shares_B, int(model.config.num_labels or 0))
    if "input_ids" in left:
        words_BTD = model.get_input_embeddings()(left.pop("input_ids"))
        own_B11 = shares_B[:, None, None]
        left["inputs_embeds"] = own_B11 * words_BTD + (1 - own_B11) * words_BTD[partners_B]
    return left


@torch.no_grad()
def why_not_by_embeddings(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> str | None:
    """Why the model cannot be given word embeddings in place of ids; None: it can, and gives the same logits.

    Args:
        model: a text classifier, or a PEFT model around one.
        batch: a few rows as the model takes them, of several lengths.
    """
    others = set(batch) - {"input_ids", "token_type_ids", "attention_mask"}
    if others:
        return f"its tokenizer gives it {', '.join(sorted(others))} as well"
    rest = {name: x for name, x in batch.items() if name != "input_ids"}
    with evaluating(model):
        expected = model(**batch).logits
        try:
            by_embeddings = model(**rest, inputs_embeds=model.get_input_embeddings()(batch["input_ids"])).logits
        # Each family fails in its own way where it looks for the ids.
        except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            return " ".join(str(error).split())
    if not torch.allclose(by_embeddings, expected, rtol=TOLERANCE, atol=TOLERANCE):
        return f"its logits would differ by {float((by_embeddings - expected).abs().max()):.1e} without any mixing"
    return None
