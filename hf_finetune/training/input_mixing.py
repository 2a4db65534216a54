"""Mixing of the rows of a batch, from the loader to the loss; see `augmentation.mixing`.

Legend: B rows, C classes, T tokens.
"""

from functools import partial

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from hf_finetune.augmentation.mixing import Mixing
from hf_finetune.augmentation.online import AugmentedRows, MixedRows, collate_mixed
from hf_finetune.data.inputs import EpochRows, Rows
from hf_finetune.evaluation.logits import evaluating
from hf_finetune.training.hooks import Batch, Collate, Hook

TOLERANCE = 1e-4
"""Difference of a batch's logits by ids and by word embeddings that rounding explains."""


class InputMixing(Hook):
    """Mixes the rows of each micro-batch by an operation drawn at random. Not for packed batches.

    Args:
        operations: the operations to draw from.
        seed: seed of the run.
    """

    numbers_repeats = True

    def __init__(self, operations: tuple[Mixing, ...], seed: int) -> None:
        self.operations, self.seed = operations, seed

    def on_loader(self, rows: EpochRows, collate: Collate) -> tuple[EpochRows, Collate]:
        """Choose partners and shares, and mix images, as batches are collated."""
        assert isinstance(rows, Rows | AugmentedRows), "rows with a label"
        return MixedRows(rows, self.seed), partial(collate_mixed, self.operations, collate)

    def on_inputs(self, model: PreTrainedModel, batch: Batch) -> Batch:
        """Mix word embeddings and labels."""
        return mixed_inputs(model, batch) if "partners" in batch else batch


def soft_labels(labels_B: torch.Tensor, partners_B: torch.Tensor, shares_B: torch.Tensor, classes: int) -> torch.Tensor:
    """Mix each row's label with its partner's, in the proportion of the share.

    Args:
        labels_B: shape (B,), class indices; or (B, C), tags or numbers.
        partners_B: shape (B,), index of each row's partner.
        shares_B: shape (B,), share of the row itself, from 0 to 1.

    Returns:
        Shape (B, C), float32; of classes, each row sums to 1.
    """
    labels_BC = labels_B.float() if labels_B.dim() == 2 else F.one_hot(labels_B, classes).float()
    return shares_B[:, None] * labels_BC + (1 - shares_B[:, None]) * labels_BC[partners_B]


def mixed_inputs(model: PreTrainedModel, inputs: Batch) -> Batch:
    """Return the batch with soft labels and, for texts, mixed word embeddings in place of ids.

    The table is read once for each token, so its gradient covers the words of the batch, row-sparse where it was.

    Args:
        model: a classifier with `get_input_embeddings`, without the process group's wrapper.
        inputs: the batch, on the model's device; not modified.
    """
    mixed = dict(inputs)
    partners_B, shares_B = mixed.pop("partners"), mixed.pop("shares")
    mixed["labels"] = soft_labels(mixed["labels"], partners_B, shares_B, int(model.config.num_labels or 0))
    if "input_ids" in mixed:
        words_BTD = model.get_input_embeddings()(mixed.pop("input_ids"))
        shares_B11 = shares_B[:, None, None]
        mixed["inputs_embeds"] = shares_B11 * words_BTD + (1 - shares_B11) * words_BTD[partners_B]
    return mixed


@torch.no_grad()
def why_not_by_embeddings(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> str | None:
    """Return why the model cannot take word embeddings in place of ids; None if it can, with the same logits.

    Args:
        model: a text classifier, or a PEFT model around one.
        batch: the model's inputs for a few rows of several lengths.
    """
    others = set(batch) - {"input_ids", "token_type_ids", "attention_mask"}
    if others:
        return f"its tokenizer also gives it {', '.join(sorted(others))}"
    rest = {name: x for name, x in batch.items() if name != "input_ids"}
    with evaluating(model):
        expected = model(**batch).logits
        try:
            by_embeddings = model(**rest, inputs_embeds=model.get_input_embeddings()(batch["input_ids"])).logits
        # Families fail in different ways when the ids are missing.
        except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            return " ".join(str(error).split())
    if not torch.allclose(by_embeddings, expected, rtol=TOLERANCE, atol=TOLERANCE):
        return f"its logits would differ by {float((by_embeddings - expected).abs().max()):.1e} without any mixing"
    return None
