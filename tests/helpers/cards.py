"""A card as the Hub reads it."""

from __future__ import annotations

import re
from typing import Any

from helpers.hub_run import RECIPE, example_result
from helpers.hub_store import validate_card
from huggingface_hub import ModelCard

from hf_finetune import Recipe
from hf_finetune.hub.card import render_card
from hf_finetune.hub.run_facts import RunFacts


def card_of(recipe: Recipe = RECIPE, result: dict[str, Any] | None = None, **changes: Any) -> ModelCard:
    """Render a card, and check its metadata as the Hub does."""
    text = render_card(RunFacts(recipe, {**(result or example_result()), **changes}))
    assert validate_card(text).status == 200
    card = ModelCard(text)
    assert str(card.data.to_yaml(original_order=card._original_order)) in text
    assert not re.search(r"\n\n\n|[ \t]+\n", text), "stray blanks"
    return card
