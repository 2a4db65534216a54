"""Sentences through another language and back, by sequence-to-sequence models.

Legend: B sentences, L tokens of a translation, V tokens of the vocabulary, K those drawn from.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np
import torch
from tqdm import tqdm
from transformers import LogitsProcessor, LogitsProcessorList

from hf_finetune.augmentation.generative.checkpoints import TextModel
from hf_finetune.data.text_pieces import sentences_of
from hf_finetune.models.loading import quiet

logger = logging.getLogger("hf_finetune.run")

Seed = tuple[int, ...]

# White space between lines, and around a text.
LINES = re.compile(r"(^\s+|\s+$|\s*\n\s*)")


@dataclass(frozen=True)
class Search:
    """How a translation is looked for; see the fields of `text_models.BackTranslate`."""

    num_beams: int
    temperature: float
    top_k: int
    max_length: int
    batch_size: int


def split_sentences(text: str) -> list[str]:
    """Sentences, none longer than its line, and the white space between them; together they are the text."""
    lines = LINES.split(text)
    parts: list[str] = []
    for line, gap in zip_longest(lines[::2], lines[1::2], fillvalue=""):
        sentences, gaps = sentences_of(line)
        parts += chain.from_iterable(zip(sentences or [""], [*gaps[1:-1], gap], strict=True))
    return parts[:-1]


def by_way_of(
    sentences: Sequence[str],
    seeds: Sequence[tuple[Seed, Seed]],
    there: TextModel,
    back: TextModel,
    *,
    prefixes: tuple[str, str],
    search: Search,
) -> list[str]:
    """The sentences, translated there and back; one that does not come through stays itself.

    Args:
        seeds: of each sentence, for the way there and the way back.
    """
    outward = translate(sentences, [s for s, _ in seeds], there, prefix=prefixes[0], search=search, bar="there")
    came = [i for i, sentence in enumerate(outward) if sentence is not None]
    found = translate(
        [outward[i] for i in came], [seeds[i][1] for i in came], back, prefix=prefixes[1], search=search, bar="back"
    )
    changed = list(sentences)
    for i, sentence in zip(came, found, strict=True):
        if sentence is not None:
            changed[i] = sentence
    stayed = len(sentences) - sum(sentence is not None for sentence in found)
    if stayed:
        logger.info("BackTranslate: %d of %d sentences stay themselves: too long, or no end", stayed, len(sentences))
    return changed


def translate(
    sentences: Sequence[str], seeds: Sequence[Seed], translator: TextModel, *, prefix: str, search: Search, bar: str
) -> list[str | None]:
    """Each sentence's translation, in batches of like length; None where there is none that is whole.

    Args:
        seeds: of the sentences, for `search.temperature` above 0.
        bar: what the progress bar says.
    """
    prompts = [prefix + sentence for sentence in sentences]
    lengths = [len(ids) for ids in translator.tokenizer(prompts, verbose=False)["input_ids"]] if prompts else []
    longest = min(search.max_length, translator.positions)
    todo = sorted((i for i, length in enumerate(lengths) if length <= longest), key=lengths.__getitem__)
    found: list[str | None] = [None] * len(prompts)
    with tqdm(
        total=len(todo), desc=f"translation {bar}", unit="sentence", leave=False, dynamic_ncols=True, disable=None
    ) as progress:
        for start in range(0, len(todo), search.batch_size):
            rows = todo[start : start + search.batch_size]
            texts = _generated([prompts[i] for i in rows], [seeds[i] for i in rows], translator, search)
            for i, text in zip(rows, texts, strict=True):
                found[i] = text
            progress.update(len(rows))
    return found


class Drawn(LogitsProcessor):
    """Makes the greedy choice of a token a draw, by each sentence's own random numbers.

    The largest of scores with Gumbel noise on them is a draw from their softmax (the Gumbel-max trick).
    """

    def __init__(self, seeds: Sequence[Seed], temperature: float, top_k: int) -> None:
        self._rngs = [np.random.default_rng(seed) for seed in seeds]
        self._temperature, self._top_k = temperature, top_k

    def __call__(self, input_ids: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        """Scores (B, V) whose largest is the token drawn."""
        best = scores_BV.topk(min(self._top_k, scores_BV.shape[1]))
        noise_BK = np.stack([rng.gumbel(size=best.values.shape[1]) for rng in self._rngs])
        drawn_BK = best.values / self._temperature + torch.as_tensor(noise_BK).to(best.values)
        return torch.full_like(scores_BV, -torch.inf).scatter(1, best.indices, drawn_BK)


def _generated(prompts: list[str], seeds: list[Seed], translator: TextModel, search: Search) -> list[str | None]:
    model, tokenizer = translator.model, translator.tokenizer
    longest = min(search.max_length, translator.positions)
    encoded = tokenizer(prompts, padding=True, return_tensors="pt").to(translator.device)
    processors = [Drawn(seeds, search.temperature, search.top_k)] if search.temperature else []
    with torch.inference_mode(), quiet():
        generated = model.generate(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            num_beams=search.num_beams,
            do_sample=False,
            max_new_tokens=longest,
            logits_processor=LogitsProcessorList(processors),
        )
    # The first token only starts the translation. Some checkpoints put an end to whatever has grown too long: an end in the
    # last place is none.
    ends = torch.tensor(np.atleast_1d(model.generation_config.eos_token_id).tolist(), device=generated.device)
    whole_B = torch.isin(generated[:, 1:longest], ends).any(1).tolist()
    texts = [" ".join(text.split()) for text in tokenizer.batch_decode(generated, skip_special_tokens=True)]
    return [text if whole and text else None for text, whole in zip(texts, whole_B, strict=True)]
