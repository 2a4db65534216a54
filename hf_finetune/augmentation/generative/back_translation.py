"""Back translation by sequence-to-sequence models.

Legend: B sentences, V size of the vocabulary, K candidates.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from hf_finetune.augmentation.generative.base import MANY, CheckpointName, GenerativeOperation, Load
from hf_finetune.augmentation.generative.sources import Source
from hf_finetune.data.text_pieces import sentences_of
from hf_finetune.errors import InputError
from hf_finetune.utils.config import between, configclass
from hf_finetune.utils.console import Progress
from hf_finetune.utils.panics import tokenize

if TYPE_CHECKING:
    import torch

    from hf_finetune.augmentation.generative.checkpoints import LanguageModel

logger = logging.getLogger("hf_finetune.run")

Seed = tuple[int, ...]

# White space between lines and around a text.
LINES = re.compile(r"(^\s+|\s+$|\s*\n\s*)")


@configclass
class BackTranslate(GenerativeOperation):
    """Translate texts into another language and back, sentence by sentence (arXiv:1511.06709, arXiv:1904.12848).

    A sentence that is too long for a model, or whose translation reaches the length limit, stays unchanged. For
    checkpoints of one language pair (Marian, FSMT) or with a text prefix for the language (T5); not for checkpoints
    with language tokens (NLLB, mBART).
    """

    there: CheckpointName
    """Hub id or folder of a sequence-to-sequence checkpoint that translates from the texts' language, such as
    Helsinki-NLP/opus-mt-en-de."""
    back: CheckpointName
    """Hub id or folder of a checkpoint that translates back, such as Helsinki-NLP/opus-mt-de-en; T5 can be both."""
    there_prefix: str = ""
    """Prefix of each sentence for `there`: "translate English to German: " for T5, ">>fr<< " for multilingual
    Marian."""
    back_prefix: str = ""
    """Prefix of each sentence for `back`."""
    num_beams: Annotated[int, between(1, 100)] = 1
    """Beams of the beam search. 1: greedy."""
    temperature: Annotated[float, between(0, 100)] = 0.0
    """Sampling temperature: higher gives more variety, more mistakes, and copies that differ. 0: the most likely
    translation, the same in every copy."""
    top_k: Annotated[int, between(1, MANY)] = 50
    """Number of most likely tokens to sample from, with a temperature above 0."""
    max_length: Annotated[int, between(4, MANY)] = 128
    """Longest sentence with its prefix and longest translation in tokens, up to a model's number of positions."""
    batch_size: Annotated[int, between(1, MANY)] = 32
    """Sentences per batch."""
    there_revision: str | None = None
    """Branch, tag or commit of `there` on the Hub."""
    back_revision: str | None = None
    """Branch, tag or commit of `back` on the Hub."""

    def __post_init__(self) -> None:
        if self.num_beams > 1 and self.temperature:
            raise InputError(f"BackTranslate.temperature: expected 0 with num_beams above 1, got {self.temperature!r}")

    @property
    def sources(self) -> tuple[Source, ...]:
        outward = Source(self.there, self.there_revision, "translation")
        return outward, Source(self.back, self.back_revision, "translation")

    def rewrite(self, texts: Sequence[str], seeds: Sequence[int], load: Load) -> list[str]:
        pieces = [split_sentences(text) for text in texts]
        positions = [
            (i, j) for i, parts in enumerate(pieces) for j, part in enumerate(parts) if any(map(str.isalpha, part))
        ]
        if not positions:
            return list(texts)
        there, back = map(load, self.sources)
        sentences, outward_seeds = [pieces[i][j] for i, j in positions], [(seeds[i], j, 0) for i, j in positions]
        outward = translate(sentences, outward_seeds, there, self, prefix=self.there_prefix, bar="there")
        pivot = {position: text for position, text in zip(positions, outward, strict=True) if text is not None}
        sentences, return_seeds = list(pivot.values()), [(seeds[i], j, 1) for i, j in pivot]
        returned = translate(sentences, return_seeds, back, self, prefix=self.back_prefix, bar="back")
        for (i, j), sentence in zip(pivot, returned, strict=True):
            if sentence is not None:
                pieces[i][j] = sentence
        unchanged = len(positions) - sum(sentence is not None for sentence in returned)
        if unchanged:
            logger.info(
                "BackTranslate: %d of %d sentences stay unchanged: they or their translations are too long",
                unchanged,
                len(positions),
            )
        return ["".join(parts) for parts in pieces]


def split_sentences(text: str) -> list[str]:
    """Split a text at sentence ends and line breaks, into sentences and the white space between them."""
    lines = LINES.split(text)
    parts: list[str] = []
    for line, gap in zip_longest(lines[::2], lines[1::2], fillvalue=""):
        sentences, gaps = sentences_of(line)
        parts += chain.from_iterable(zip(sentences or [""], [*gaps[1:-1], gap], strict=True))
    return parts[:-1]


def translate(
    sentences: Sequence[str],
    seeds: Sequence[Seed],
    translator: LanguageModel,
    operation: BackTranslate,
    *,
    prefix: str,
    bar: str,
) -> list[str | None]:
    """Translate sentences, in batches of similar length.

    Args:
        seeds: one per sentence, for a temperature above 0.
        bar: the direction, for the title of the count.

    Returns:
        The translations; None for one that reaches the length limit.
    """
    prompts = [prefix + sentence for sentence in sentences]
    encoded = (
        tokenize(translator.tokenizer, prompts, name=translator.name, verbose=False)["input_ids"] if prompts else []
    )
    lengths = [len(ids) for ids in encoded]
    longest = min(operation.max_length, translator.positions)
    todo = sorted((i for i, length in enumerate(lengths) if length <= longest), key=lengths.__getitem__)
    translations: list[str | None] = [None] * len(prompts)
    with Progress(f"translation {bar}", total=len(todo), unit="sentence") as progress:
        for start in range(0, len(todo), operation.batch_size):
            rows = todo[start : start + operation.batch_size]
            texts = _generate([prompts[i] for i in rows], [seeds[i] for i in rows], translator, operation, longest)
            for i, text in zip(rows, texts, strict=True):
                translations[i] = text
            progress.update(len(rows))
    return translations


def _generate(
    prompts: list[str], seeds: list[Seed], translator: LanguageModel, operation: BackTranslate, longest: int
) -> list[str | None]:
    import torch
    from transformers import LogitsProcessorList

    from hf_finetune.models.contexts import quiet

    model: Any = translator.model
    tokenizer = translator.tokenizer
    encoded = tokenizer(prompts, padding=True, return_tensors="pt").to(translator.device)
    processors = [Sampler(seeds, operation.temperature, operation.top_k)] if operation.temperature else []
    with torch.inference_mode(), quiet():
        generated = model.generate(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            num_beams=operation.num_beams,
            do_sample=False,
            max_new_tokens=longest,
            logits_processor=LogitsProcessorList(processors),
        )
    # The first token only starts the decoder. Some checkpoints force an end token at the length limit, so one in the
    # last position does not count.
    ends = torch.tensor(np.atleast_1d(model.generation_config.eos_token_id).tolist(), device=generated.device)
    is_complete_B = torch.isin(generated[:, 1:longest], ends).any(1).tolist()
    texts = [" ".join(text.split()) for text in tokenizer.batch_decode(generated, skip_special_tokens=True)]
    return [text if complete and text else None for text, complete in zip(texts, is_complete_B, strict=True)]


class Sampler:
    """A logits processor that makes greedy decoding sample, with a generator per sentence (the Gumbel-max trick)."""

    def __init__(self, seeds: Sequence[Seed], temperature: float, top_k: int) -> None:
        self._rngs = [np.random.default_rng(seed) for seed in seeds]
        self._temperature, self._top_k = temperature, top_k

    def __call__(self, input_ids: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        """Return scores (B, V) whose maximum is the sampled token."""
        import torch

        best = scores_BV.topk(min(self._top_k, scores_BV.shape[1]))
        noise_BK = np.stack([rng.gumbel(size=best.values.shape[1]) for rng in self._rngs])
        noisy_BK = best.values / self._temperature + torch.as_tensor(noise_BK).to(best.values)
        return torch.full_like(scores_BV, -torch.inf).scatter(1, best.indices, noisy_BK)
