"""What mkdocs builds beside the pages: the reference from the types of the fields, and the notebook.

The pages `commands.md` and `fields.md` have a marker, `<!-- commands -->` or `<!-- fields -->`, in place of which the
reference is put at each build: the `--help` of each command, and the fields of `hf-finetune schema` with their flags.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from hf_finetune.cli.main import COMMANDS, main_command
from hf_finetune.config.aliases import NAMES
from hf_finetune.config.json_schema import json_schema
from hf_finetune.config.keywords import field_names
from hf_finetune.config.recipe import Recipe, blank_recipe
from hf_finetune.utils.plain import to_plain

DOCS = Path(__file__).parent
EXECUTED = "DOCS_NOTEBOOKS"
"""Names a folder of notebooks with their outputs, as `tests/integration/test_notebook.py` leaves them there."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the reference in place of its marker, and link to the pages of notebooks."""
    markdown = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", markdown)
    for marker, reference in (("<!-- commands -->", commands), ("<!-- fields -->", fields)):
        if marker in markdown:
            markdown = markdown.replace(marker, reference())
    return markdown


def on_files(files: Any, config: Any) -> Any:
    """Show notebooks as pages, those with outputs that a test has left, and add images, which same-dir leaves out."""
    from mkdocs.structure.files import File

    executed = Path(os.environ.get(EXECUTED, DOCS))
    for path in sorted(DOCS.glob("*.ipynb")):
        shown = executed / path.name
        page = notebook((shown if shown.exists() else path).read_text(encoding="utf-8"))
        files.append(File.generated(config, path.with_suffix(".md").name, content=page))
    for path in sorted(DOCS.glob("*.svg")):
        files.append(File.generated(config, path.name, abs_src_path=str(path)))
    return files


def on_post_build(config: Any) -> None:
    """End the build if a page loads anything from another host."""
    from mkdocs.exceptions import PluginError

    pages = [path for path in Path(config.site_dir).rglob("*") if path.suffix in (".html", ".css")]
    foreign = [f"{page.name}: {url}" for page in pages for url in assets(page.read_text(encoding="utf-8"))]
    if foreign:
        raise PluginError(f"assets of other hosts: {', '.join(sorted(set(foreign)))}")


def notebook(text: str) -> str:
    """Return a notebook as Markdown, with the outputs that it has."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [output(data) for data in cell.get("outputs", ()) if data["output_type"] == "execute_result"]
    return "\n\n".join(parts)


def output(result: dict[str, Any]) -> str:
    """Return the value of a cell: HTML, else text."""
    data = {kind: "".join(content) for kind, content in result["data"].items()}
    if "text/html" in data:
        # An empty line would end the HTML; a table with a class has another style than those of the site.
        html = " ".join(data["text/html"].split()).replace(' border="1" class="dataframe"', "")
        return f'<div class="output">{html}</div>'
    return f"```text\n{data['text/plain']}\n```"


ASSETS = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}


class _Assets(HTMLParser):
    """Collects the addresses from which a page loads anything."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if named.get("rel") in ("canonical", "prev", "next", "edit"):
            return
        self.urls += [url for url in (named.get(ASSETS.get(tag, "")), named.get("srcset")) if url]


def assets(page: str) -> list[str]:
    """Return what a page or a style sheet loads from another host."""
    parser = _Assets()
    parser.feed(page)
    urls = [*parser.urls, *re.findall(r"(?:url\(|@import )+[\"']?([^)\"']+)", page)]
    return [url for url in urls if re.match(r"(\w+:)?//", url)]


def commands() -> str:
    """Return the `--help` of each command as Markdown."""
    parts = []
    for name, command in COMMANDS.items():
        # Without an argument, the help of `run` and `plan` says how they are called.
        sentence = command.help[0].upper() + command.help[1:]
        parts.append(f"## {name}\n\n{sentence}.\n\n```text\n{_help(name)}\n```")
    return "\n\n".join(parts)


def _help(command: str) -> str:
    output = io.StringIO()
    with _plain_terminal(), contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main_command([command, "--help"])
    return "\n".join(line.rstrip() for line in output.getvalue().strip().splitlines())


@contextlib.contextmanager
def _plain_terminal() -> Iterator[None]:
    """80 columns, no colors."""
    before = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR")}
    os.environ |= {"COLUMNS": "80", "NO_COLOR": "1"}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {} if value is None else {name: value}


def fields() -> str:
    """Return the fields of a recipe, and of the operations and other choices in it, as Markdown."""
    schema = json_schema(Recipe)
    configs, flags = schema["$defs"], short_names()
    defaults = [to_plain(blank_recipe(images=images)) for images in (True, False)]
    top = {name: value for name, value in schema["properties"].items() if not configs_of(value)}
    parts, shown = [f"## Recipe\n\n{table(flat(top, configs), flags)}"], set()
    for section, value in schema["properties"].items():
        for name in configs_of(value):
            title = f"{section} ({name})" if section in ("data", "objective") else section
            text = " ".join(filter(None, (configs[name].get("description"), value.get("description"))))
            rows = flat(configs[name]["properties"], configs, f"{section}.", shown)
            parts.append(f"## {title} {{ #{name.lower()} }}\n\n{text}\n\n{table(rows, flags, defaults)}")
            shown.add(name)
    parts.append(CHOICES)
    for name in sorted(configs.keys() - shown):
        text, rows = configs[name].get("description", ""), flat(configs[name]["properties"], configs)
        parts.append(f"### {name} {{ #{name.lower()} }}\n\n{text}\n\n{table(rows) if rows else 'It has no fields.'}")
    return "\n\n".join(parts)


CHOICES = """## Operations and other choices

Write a name (`Lion`) or a mapping (`{type: SGD, momentum: 0.8}`) in YAML and in a flag, and the class in Python
(`SGD(momentum=0.8)`)."""


def short_names() -> dict[str, list[str]]:
    """Return the names without a section of each dotted field: flags, YAML keys with hyphens, keywords of Python."""
    names: dict[str, list[str]] = {}
    for images in (False, True):
        for name, dotted in field_names(blank_recipe(images=images)).items():
            fields = [field for field in dotted if field != name]
            if len(fields) == 1 and "." not in name:
                names.setdefault(fields[0], []).append(name)
    for name, field in NAMES.items():
        for of_field in names.values():
            if field in of_field:
                of_field.append(name)
    return {field: list(dict.fromkeys(of_field)) for field, of_field in names.items()}


def configs_of(value: Any) -> list[str]:
    """Return the names of the configs that a field holds, by the schema of the field."""
    return [part["$ref"].rpartition("/")[2] for part in (value, *value.get("anyOf", ())) if "$ref" in part]


def flat(properties: Any, configs: Any, prefix: str = "", shown: set[str] | None = None) -> dict[str, Any]:
    """Return the schemas of fields by dotted name, those of nested configs in place of the config."""
    rows: dict[str, Any] = {}
    for name, value in properties.items():
        if "$ref" in value:
            (config,) = configs_of(value)
            rows |= flat(configs[config]["properties"], configs, f"{prefix}{name}.", shown)
            if shown is not None:
                shown.add(config)
        elif name != "type" or "const" not in value:
            rows[f"{prefix}{name}"] = value
    return rows


def table(rows: dict[str, Any], flags: Any = None, defaults: Iterable[Any] = ()) -> str:
    """Return fields as a table: name with its flags, values, default and meaning."""
    lines = ["| field | values | default | meaning |", "|---|---|---|---|"]
    for dotted, value in rows.items():
        name = f"`{dotted}`"
        if flags is not None:
            names = [f"`--{short.replace('_', '-')}`" for short in flags.get(dotted, [])]
            name += "".join(f"<br>{short}" for short in names)
        cells = (name, values(value), default(value, dotted, defaults), escaped(value.get("description", "")))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Return text for a cell of a table. What is in backticks is shown as it is."""
    return re.sub(r"(`[^`]*`)|[|<]", lambda match: match[1] or {"|": "&#124;", "<": "&lt;"}[match[0]], text)


def default(value: Any, dotted: str, recipes: Iterable[Any]) -> str:
    """Return the default of a field: the schema's, or the type of the config that a recipe has there."""
    if "default" in value:
        return f"`{json.dumps(value['default'])}`"
    for recipe in recipes:
        for part in dotted.split("."):
            recipe = recipe.get(part) if isinstance(recipe, dict) else None
        if isinstance(recipe, dict) and "type" in recipe:
            return f"`{recipe['type']}`"
    return ""


def values(value: Any) -> str:
    """Return what a field can hold, in words."""
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    if configs := configs_of(value):
        of_type = [f"[{name}](#{name.lower()})" for name in configs]
        return ", ".join(of_type + ["`null`"] * ({"type": "null"} in value["anyOf"]))
    if "anyOf" in value:
        return " or ".join(values(part) for part in value["anyOf"])
    match value.get("type"):
        case "array":
            return f"list of: {values(value['items'])}" if "items" in value else "list"
        case "number" | "integer" as kind:
            bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
            limits = [f"{sign}&nbsp;{value[name]}" for name, sign in bounds.items() if name in value]
            return " ".join(["integer" if kind == "integer" else "number", ", ".join(limits)]).strip()
        case "boolean":
            return "`true`, `false`"
        case "object":
            return "mapping"
        case "null":
            return "`null`"
        case kind:
            return str(kind or "any")
