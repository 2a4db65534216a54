"""`hf-finetune schema`: the JSON Schema of a recipe file."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hf_finetune.cli.parsing import usage_or_help

SCHEMA_HELP = """hf-finetune schema

The JSON Schema of a recipe file, for editors. Save it, and name it in the first line of a YAML file:
# yaml-language-server: $schema=recipe.schema.json"""


def schema(arguments: Sequence[str]) -> None:
    """Print the JSON Schema of a recipe file."""
    if arguments:
        raise usage_or_help(arguments, SCHEMA_HELP, f"hf-finetune schema: takes no arguments, got {arguments[0]!r}")
    from hf_finetune.cli.arguments import blank_recipe
    from hf_finetune.config.json_schema import json_schema

    print(json.dumps(json_schema(type(blank_recipe(images=False))), indent=2))
