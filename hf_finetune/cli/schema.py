"""`hf-finetune schema`: print the JSON Schema of a recipe file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from hf_finetune.cli.parsing import parse


@dataclass(frozen=True)
class SchemaJob:
    """Print the JSON Schema of a recipe file, for editors.

    Save it, and name it in the first line of a YAML file: `# yaml-language-server: $schema=recipe.schema.json`.
    """


def schema(arguments: Sequence[str]) -> None:
    parse(SchemaJob, arguments, "hf-finetune schema")
    from hf_finetune.config.json_schema import json_schema
    from hf_finetune.config.recipe import blank_recipe

    print(json.dumps(json_schema(type(blank_recipe(images=False))), indent=2))
