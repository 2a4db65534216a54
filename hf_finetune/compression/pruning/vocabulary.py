"""A smaller vocabulary: the embeddings of tokens that the data uses, and of those that any text may need.

Legend: V tokens before, K after, D width.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch import nn
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_finetune.compression.pruning.tokenizer_json import (
    Document,
    is_word_part,
    safe_ids,
    token_ids,
    trimmed,
    with_parts,
)
from hf_finetune.compression.steps import Step, StepRows
from hf_finetune.data.inputs import TextInputs
from hf_finetune.errors import InputError
from hf_finetune.models.modules import encoder, without_adapter
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.utils.config import CountOrZero, configclass

log = logging.getLogger("hf_finetune")

_BRACKETS = re.compile(r"\[.*\]$")
FEW_LETTERS = 4
"""Of a token that abbreviations and misspelled words are made of, at most."""
CHECKED_ROWS = 2_000
"""Training rows at most on which the smaller tokenizer is compared with the whole one."""


@configclass
class TrimVocabulary(Step):
    """Keep the embeddings of tokens that the training rows use, of single characters, and of some more.

    They are rounded to float16, in which a checkpoint stores them: for the same size twice as many remain. A text of
    these tokens has the same logits as before but for this rounding. A word without its token is split into smaller
    pieces.
    """

    name = "vocabulary"
    spare: CountOrZero = 13_600
    """Tokens that remain although no training row uses them, see `spare_ids`."""

    def refusal(self, classifier: TrainedModel) -> str | None:
        """Refuse images, and tokenizers that do not split words into pieces."""
        inputs = classifier.inputs
        if not isinstance(inputs, TextInputs):
            return "it classifies images, which have no vocabulary"
        if not inputs.tokenizer.is_fast:
            return "its tokenizer has no tokenizer.json, which says how words are split"
        try:
            token_ids(_document(inputs.tokenizer))
        except InputError as error:
            return str(error)
        return None

    def row_passes(self, rows: StepRows) -> int:
        """Return its cost: that of tokenizing the rows."""
        return len(rows.train) // 10

    def apply(self, classifier: TrainedModel, rows: StepRows) -> TrainedModel:
        """Return the classifier of the smaller vocabulary.

        Raises:
            InputError: transformers does not read the smaller tokenizer as it was written.
        """
        inputs = cast(TextInputs, classifier.inputs)
        ids = sorted(self._ids(classifier, rows))
        model = with_rows(cast(PreTrainedModel, classifier.model), ids)
        tokenizer = trim_tokenizer(inputs.tokenizer, ids, without_adapter(model).config)
        smaller = replace(inputs, tokenizer=tokenizer)
        log.info("vocabulary: %s of %s tokens remain", f"{len(ids):,}", f"{len(inputs.tokenizer):,}")
        checked = rows.train.select(range(min(len(rows.train), CHECKED_ROWS)))
        if changed_share(inputs, smaller, ids, checked) > 0:
            raise InputError(
                f"vocabulary: transformers reads a smaller {type(tokenizer).__name__} in another way than it was "
                "written; leave the step out"
            )
        return replace(classifier, model=model, inputs=smaller)

    def _ids(self, classifier: TrainedModel, rows: StepRows) -> set[int]:
        """Return the ids of the tokens that remain."""
        inputs = cast(TextInputs, classifier.inputs)
        document, config = _document(inputs.tokenizer), without_adapter(classifier.model).config
        size = _embedding(classifier.model).num_embeddings
        used = used_ids(inputs, rows.train)
        ids = used | safe_ids(document) | set(_token_fields(config).values()) | set(inputs.tokenizer.all_special_ids)
        weight_VD = _embedding(classifier.model).weight.detach()
        ids |= set(spare_ids(document, weight_VD, used, ids, self.spare))
        return with_parts(document, ids & set(token_ids(document).values()) & set(range(size)))


def used_ids(inputs: TextInputs, rows: Dataset) -> set[int]:
    """Return the ids of all tokens that the network reads of these rows."""
    ids: set[int] = set()
    for batch in inputs.encode_in_memory(rows).select_columns("input_ids").iter(10_000):
        ids |= set(chain.from_iterable(batch["input_ids"]))
    return ids


def spare_ids(
    document: Document, weight_VD: torch.Tensor, used: Iterable[int], ids: Iterable[int], number: int
) -> list[int]:
    """Return further tokens that new texts are most likely to use.

    First come pieces that continue a word, and tokens of few letters, if all their characters are in the tokens in use:
    misspelled and rare words consist of them, and abbreviations. The others follow. Tokenizers number tokens by their
    frequency in the texts of pretraining; to this rank is added that by similarity to a token in use. Of 3,080 test
    rows of banking77, in 30,522 tokens, 13,600 in this order left 22 rows with other tokens and none with another
    label; by the ranks alone there were 17 rows and 6 labels.

    Args:
        weight_VD: embedding matrix.
        used: ids of the tokens of the rows.
        ids: of all tokens that remain in any case. Placeholders in brackets ([unused0]) are no candidates.
        number: of further tokens.
    """
    remaining, used, size = set(ids), set(used), len(weight_VD)
    tokens = token_ids(document)
    candidates = sorted(
        i for token, i in tokens.items() if i not in remaining and i < size and not _BRACKETS.match(token)
    )
    if not candidates or not number:
        return []
    unit_VD = nn.functional.normalize(weight_VD.float() - weight_VD.float().mean(0), dim=1)
    used_UD = unit_VD[sorted(used)]
    nearest = torch.cat([(part @ used_UD.T).amax(1) for part in unit_VD[candidates].split(1024)])
    ranks = torch.arange(len(candidates)) + nearest.argsort(descending=True, stable=True).argsort().cpu()
    names = {i: token for token, i in tokens.items()}
    letters = set(chain.from_iterable(names[i] for i in used if i in names))
    is_part = [is_word_part(document, names[i], FEW_LETTERS) and letters.issuperset(names[i]) for i in candidates]
    ranks -= torch.tensor(is_part) * 2 * len(candidates)
    return [candidates[place] for place in ranks.argsort(stable=True)[:number].tolist()]


def with_rows(model: PreTrainedModel, ids: Sequence[int]) -> PreTrainedModel:
    """Return a copy of a model with these rows of the embedding matrix (V, D), as (K, D) rounded to float16, and token
    ids as they are in the smaller tokenizer.

    Args:
        ids: rising, K of them.
    """
    model = copy.deepcopy(model)
    old, new = _embedding(model), {number: place for place, number in enumerate(ids)}
    weight_KD = rounded_to_half(old.weight.detach()[torch.tensor(ids, device=old.weight.device)])
    padding = None if old.padding_idx is None else new[old.padding_idx]
    embedding = nn.Embedding.from_pretrained(weight_KD, freeze=not old.weight.requires_grad, padding_idx=padding)
    encoder(model).set_input_embeddings(embedding.train(old.training))
    config = without_adapter(model).config
    config.vocab_size = len(ids)
    for name, number in _token_fields(config).items():
        setattr(config, name, new[number])
    return model


def rounded_to_half(weights: torch.Tensor) -> torch.Tensor:
    """Return a copy with values of float16, in the format of the weights; as they are if one is out of its range."""
    halves = weights.half()
    return halves.to(weights.dtype) if bool(halves.isfinite().all()) else weights.clone()


def trim_tokenizer(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], config: PreTrainedConfig
) -> PreTrainedTokenizerBase:
    """Return a tokenizer of these tokens, numbered in order, as transformers loads it.

    Args:
        config: of the model, by which transformers chooses the class of the tokenizer.
    """
    with tempfile.TemporaryDirectory(prefix="hf_finetune_vocabulary_") as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        config.save_pretrained(folder)
        document = trimmed(_document(tokenizer), ids)
        (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        # Numbers of tokens as they were; tokenizer.json says them, too.
        settings.pop("added_tokens_decoder", None)
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
        return AutoTokenizer.from_pretrained(folder)


def changed_share(before: TextInputs, after: TextInputs, ids: Sequence[int], rows: Dataset) -> float:
    """Return the share of rows that a smaller tokenizer splits into other tokens.

    Args:
        ids: of the tokens that remain, rising.
    """
    old, new = (each.encode_in_memory(rows)["input_ids"] for each in (before, after))
    changed = [
        list(one) != [ids[number] if number < len(ids) else -1 for number in other]
        for one, other in zip(old, new, strict=True)
    ]
    return sum(changed) / max(len(changed), 1)


def _document(tokenizer: PreTrainedTokenizerBase) -> Document:
    return json.loads(cast(Any, tokenizer).backend_tokenizer.to_str())


def _embedding(model: nn.Module) -> nn.Embedding:
    embedding = encoder(model).get_input_embeddings()
    assert isinstance(embedding, nn.Embedding), "token embeddings"
    return embedding


def _token_fields(config: PreTrainedConfig) -> dict[str, int]:
    """Return the fields that name a token, and its id."""
    fields = {name: value for name, value in config.to_dict().items() if name.endswith("_token_id")}
    return {n: value for n, value in fields.items() if isinstance(value, int) and 0 <= value < config.vocab_size}
