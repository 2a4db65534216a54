"""Masked language modeling (BERT, arXiv:1810.04805; SpanBERT, arXiv:1907.10529).

Legend: B rows, T tokens, M tokens to predict, V tokens of the vocabulary, D width.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from hf_finetune.errors import InputError
from hf_finetune.pretraining.objectives.base import IGNORED, Objective, Predicts, Task
from hf_finetune.utils.config import Count, OpenFraction, configclass

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from hf_finetune.data.inputs import EpochRows, Inputs, TextInputs
    from hf_finetune.training.hooks import Batch, Collate


@configclass
class MaskedLanguage(Objective):
    """For texts: predict masked words, others in every epoch (BERT, arXiv:1810.04805)."""

    share: OpenFraction = 0.15
    """Share of a text's tokens to predict, at least one word. Of ten such tokens eight are masked, one is replaced by a
    random token and one is left unchanged."""
    whole_word: bool = True
    """Mask whole words. false: single tokens. Single tokens are masked anyway in scripts without spaces between words
    (Chinese, Japanese, Thai, Lao, Khmer, Burmese), and in words of more than 8 tokens that exceed the share."""
    span: Count = 1
    """Mask spans of words of random length, geometric (p 0.2) up to this maximum: 10 in SpanBERT (arXiv:1907.10529). As
    there, a span is masked, replaced or left unchanged as a whole. 1: single words."""

    predicts: ClassVar[Predicts] = "words"
    learning_rate: ClassVar[float] = 5e-5

    def check_family(self, config: PreTrainedConfig) -> None:
        """Refuse a family without a masked language model, see `Objective.check_family`."""
        from transformers import MODEL_FOR_MASKED_LM_MAPPING

        if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
            raise InputError(
                "pretrain.objective: MaskedLanguage expects a bert, roberta, distilbert, electra, deberta, mpnet, "
                f"albert or modernbert checkpoint, got {config.model_type}; take another checkpoint, or SimCSE"
            )

    def task(self, network: PreTrainedModel, inputs: Inputs, rows: Dataset, example: dict[str, Any], seed: int) -> Task:
        """Return the task; the network needs nothing more, see `Objective.task`."""
        return MaskedLanguageTask(self, network, inputs, seed)


class MaskedLanguageTask(Task):
    """Predicts masked words; the loss is a mean over their tokens, whatever the micro-batches.

    The head is computed only for these tokens, a seventh of all: for a small network it is half of the work.

    Args:
        network: a masked language model.
    """

    inputs: TextInputs

    def __init__(self, objective: MaskedLanguage, network: PreTrainedModel, inputs: Inputs, seed: int) -> None:
        from torch import nn

        from hf_finetune.data.inputs import TextInputs
        from hf_finetune.pretraining.word_masking import Masking

        super().__init__(objective, network, inputs, seed)
        table = network.get_input_embeddings()
        assert isinstance(inputs, TextInputs) and isinstance(table, nn.Embedding), "a network of words"
        self.masking = Masking.of(
            inputs.tokenizer, embeddings=table.num_embeddings, share=objective.share, span=objective.span, seed=seed
        )
        self._predicted_BT: torch.Tensor | None = None
        network.base_model.register_forward_hook(self._select_predicted)

    def _select_predicted(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        """Return states (1, M, D) in place of (B, T, D)."""
        if self._predicted_BT is not None:
            output.last_hidden_state = output.last_hidden_state[self._predicted_BT][None]
        return output

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Compute the cross-entropy of the tokens to predict, summed, in float32."""
        from torch.nn import functional as F

        labels_BT = batch["labels"]
        self._predicted_BT = labels_BT != IGNORED
        try:
            logits_1MV = model(**{name: x for name, x in batch.items() if name != "labels"}).logits
        finally:
            self._predicted_BT = None
        return F.cross_entropy(logits_1MV[0].float(), labels_BT[labels_BT != IGNORED], reduction="sum")

    def dataset(self, encoded: Dataset) -> tuple[EpochRows, Collate]:
        """Return texts with masked tokens and `labels` (B, T)."""
        from hf_finetune.pretraining.word_masking import collate_texts, masked_texts

        return masked_texts(encoded, self.inputs, self.masking), partial(collate_texts, self.inputs)
