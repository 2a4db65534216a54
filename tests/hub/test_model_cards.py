"""Every card in model_cards/ renders again from the recipe and result of its run, byte for byte."""

import json
import re
from pathlib import Path

import pytest

from hf_finetune.cli import shipped
from hf_finetune.config.recipe import recipe_from_plain
from hf_finetune.hub.card import render_card
from hf_finetune.hub.run_facts import RunFacts

CARDS = sorted((Path(__file__).parent.parent.parent / "model_cards").glob("*.json"))


def test_every_card_has_its_run() -> None:
    folder = Path(__file__).parent.parent.parent / "model_cards"
    assert CARDS
    assert {p.stem for p in folder.glob("*.md")} == {p.stem for p in CARDS}


@pytest.mark.parametrize("path", CARDS, ids=lambda p: p.stem)
def test_a_card_has_no_local_path_and_no_link_to_nothing(path: Path) -> None:
    card = path.with_suffix(".md").read_text()
    for text in (card, path.read_text()):
        assert not re.findall(r"site-packages|(?<![\w:/])/(?:tmp|work|home|root|usr|var|mnt)/[\w./-]+", text)
    prose = re.sub(r"```.*?```", "", card, flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)]+)\)", prose) if "://" not in link and not link.startswith("#")]
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", CARDS, ids=lambda p: p.stem)
def test_card_renders_again(path: Path) -> None:
    stored = json.loads(path.read_text())
    assert (
        render_card(RunFacts(recipe_from_plain(stored["recipe"]), stored["result"]))
        == path.with_suffix(".md").read_text()
    )
    assert stored["commit"]
    # A card is of a recipe that is shipped, perhaps with flags and under another name.
    assert set(stored["result"]["command"].split()) & set(shipped.names())
