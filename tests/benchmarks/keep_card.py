"""Keep the card of a finished run of a shipped recipe: model_cards/NAME.md and the NAME.json it renders from.

python tests/benchmarks/keep_card.py RUN_FOLDER [--commit HASH]

HASH is the commit of an installed wheel, which cannot know its own.
"""

import argparse
import json
from pathlib import Path

from hf_finetune.config.recipe import recipe_from_plain
from hf_finetune.hub.card import render_card
from hf_finetune.hub.local_paths import without_local_paths
from hf_finetune.hub.run_facts import RunFacts
from hf_finetune.utils.files import write_json, write_text

CARDS = Path(__file__).parent.parent.parent / "model_cards"


def main(folder: Path, commit: str | None) -> None:
    """Write both files, local paths reduced to names."""
    record = json.loads((folder / "recipe.json").read_text())
    result = json.loads((folder / "result.json").read_text())
    result["environment"]["commit"] = result["environment"]["commit"] or commit
    kept = without_local_paths({"recipe": record["recipe"], "result": result})
    kept["commit"] = result["environment"]["commit"]
    # The plots stay in the run's folder: the card would link to what is not there.
    kept["result"]["plots"] = []
    facts = RunFacts(recipe_from_plain(kept["recipe"]), kept["result"])
    write_json(CARDS / f"{result['name']}.json", kept)
    write_text(CARDS / f"{result['name']}.md", render_card(facts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--commit")
    options = parser.parse_args()
    main(options.folder, options.commit)
