"""Tiny language models whose outputs a person can predict: they go by numbers put into their last layer, not by what
they read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from helpers.tiny import tiny_tokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    MarianConfig,
    MarianMTModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

_WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def masked_model(folder: Path, family: str = "bert", **scores: float) -> str:
    """A masked language model of 64 tokens at most.

    Args:
        scores: logits of tokens, wherever the mask stands; all others have 0. None given: random weights, which read
        the text.
    """
    tokenizer = tiny_tokenizer(family)
    config, model = {"bert": (BertConfig, BertForMaskedLM), "roberta": (RobertaConfig, RobertaForMaskedLM)}[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = model(
            config(
                vocab_size=len(tokenizer),
                # RoBERTa counts positions from behind the padding index.
                max_position_embeddings=64 + (tokenizer.pad_token_id + 1 if family == "roberta" else 0),
                pad_token_id=tokenizer.pad_token_id,
                initializer_range=0.5,
                tie_word_embeddings=not scores,
                **_WIDTHS,
            )
        )
    if scores:
        last = made.get_output_embeddings()
        torch.nn.init.zeros_(last.weight)
        _set(last.bias, scores)
    return _saved(made, family, folder)


def translator(folder: Path, words: Sequence[str]) -> str:
    """A translator of 64 tokens at most that says these words, each once, whatever its input."""
    tokenizer, model = tiny_tokenizer(), _empty_translator()
    chain = [tokenizer.pad_token_id, *tokenizer.convert_tokens_to_ids(list(words)), tokenizer.sep_token_id]
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        # Far above what the positions add.
        table.copy_(100 * torch.eye(*table.shape))
        model.get_decoder().embed_tokens.weight.copy_(table)
        for token, following in pairwise(chain):
            model.lm_head.weight[following, token] = 1.0
    return _saved(model, "bert", folder)


def drawing_translator(folder: Path, **shares: float) -> str:
    """A translator that says a word with the probability given, and ends with that of `end`, whatever came before."""
    tokenizer, model = tiny_tokenizer(), _empty_translator()
    model.final_logits_bias.fill_(-100.0)
    _set(model.final_logits_bias[0], {tokenizer.sep_token: math.log(shares.pop("end"))})
    _set(model.final_logits_bias[0], {word: math.log(share) for word, share in shares.items()})
    return _saved(model, "bert", folder)


def _empty_translator() -> MarianMTModel:
    tokenizer = tiny_tokenizer()
    size = len(tokenizer)
    model = MarianMTModel(
        MarianConfig(
            vocab_size=size,
            d_model=size + size % 2,
            encoder_layers=0,
            decoder_layers=0,
            encoder_attention_heads=1,
            decoder_attention_heads=1,
            max_position_embeddings=64,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.sep_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
            forced_eos_token_id=None,
            tie_word_embeddings=False,
        )
    )
    for weight in model.parameters():
        torch.nn.init.zeros_(weight)
    return model


def _set(row: torch.Tensor, values: dict[str, float]) -> None:
    with torch.no_grad():
        for word, value in values.items():
            row[tiny_tokenizer().convert_tokens_to_ids(word)] = value


def _saved(model: PreTrainedModel, family: str, folder: Path) -> str:
    model.save_pretrained(folder)
    tiny_tokenizer(family).save_pretrained(folder)
    return str(folder)
