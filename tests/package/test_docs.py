"""The pages say what is there: their messages, commands, flags, fields and names."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
from functools import cache
from itertools import takewhile
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

import pytest
from helpers import python_examples

from hf_finetune import Recipe
from hf_finetune.cli import shipped
from hf_finetune.cli.main import COMMANDS
from hf_finetune.cli.run_job import load_recipe
from hf_finetune.utils.hints import configs_below

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md"]
HOLE = "…"


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """docs/hooks.py, which makes the reference."""
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def texts_of_the_code() -> str:
    """The strings of the package, one a line, with … in place of what an f-string or a format inserts."""
    texts = []
    for path in (ROOT / "hf_finetune").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [str(p.value) if isinstance(p, ast.Constant) else HOLE for p in node.values]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"%[sd]|\{\w*\}", HOLE, node.value))
    return "\n".join(text.replace("\n", " ").replace("`", "") for text in texts)


def test_messages_of_the_troubleshooting_page_exist() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\*\*`(.+)`\*\*$", page, re.MULTILINE)
    assert len(messages) >= 40
    missing = []
    for message in messages:
        fixed = [re.escape(part.strip()) for part in message.split(HOLE) if len(part.strip()) > 1]
        if not re.search(r"[^\n]*".join(fixed), texts_of_the_code()):
            missing.append(message)
    assert not missing, "\n".join(missing)


def test_examples_are_code_of_the_site() -> None:
    """`Example:` would be an admonition of text, where `[:2]` and the list below it become a link that leads nowhere."""
    package = ROOT / "hf_finetune"
    assert [str(path) for path in package.rglob("*.py") if re.search(r"^ +Example:$", path.read_text(), re.M)] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_picture_shows_the_run_of_the_card() -> None:
    card = (ROOT / "model_cards" / "quickstart.md").read_text(encoding="utf-8")
    scores = re.findall(r"^\| (?:Accuracy|Macro F1|Log loss \(nats\)) \| ([^|]+\]) ", card, re.MULTILINE)
    picture = re.sub(r"<[^>]+>", "", (DOCS / "quickstart.svg").read_text(encoding="utf-8"))
    assert len(scores) == 3 and all(score in picture for score in scores)


def test_the_reference_has_every_field_and_command(hooks: ModuleType) -> None:
    fields, commands = hooks.fields(), hooks.commands()
    for name, config in configs_below(Recipe).items():
        for field in dataclasses.fields(config):
            pattern = rf"^(\| `|## )([\w.]+\.)?{field.name}\b"
            assert re.search(pattern, fields, re.MULTILINE), f"{name}.{field.name}"
    assert "`train.learning_rate`<br>`--learning-rate`<br>`--lr`" in fields and "| `AdamW` |" in fields
    assert (
        r"Such as `layer\.(10|11)\.`. None" in fields and hooks.escaped("a|b <c> `d|<e>`") == "a&#124;b &lt;c> `d|<e>`"
    )
    assert commands.count("usage: hf-finetune") == len(COMMANDS)


@pytest.mark.parametrize(
    ("page", "loaded"),
    [
        ('<script src="https://a.org/x.js"></script><link rel="stylesheet" href="//b.org/y.css">', 2),
        ("<style>@import url('https://a.org/x.css'); p { background: url(//b.org/y.png) }</style>", 2),
        ('<a href="https://a.org">a</a><link rel="canonical" href="https://b.org"><img src="x.svg">', 0),
        ("p { background: url(\"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>\") }", 0),
    ],
)
def test_assets_of_other_hosts_are_seen(hooks: ModuleType, page: str, loaded: int) -> None:
    assert len(hooks.assets(page)) == loaded


class Parsed(Exception):
    """The arguments of a command are good."""


@pytest.fixture
def only_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands end when they have parsed their arguments; data and recipes need not exist."""
    from hf_finetune.data import sources

    def end_after(module: str, name: str) -> None:
        function = resolve_name(f"hf_finetune.cli.{module}:{name}")

        def parse(*args: Any, **kwargs: Any) -> None:
            function(*args, **kwargs)
            raise Parsed

        monkeypatch.setattr(f"hf_finetune.cli.{module}.{name}", parse)

    alone = "card compare compress doctor evaluate export features predict push recipes schema serve verify"
    for module in alone.split():
        end_after(module, "parse")
    for module in ("train", "plan", "rank", "search"):
        end_after(module, "parse_train")
    for module in ("run", "plan"):
        end_after(module, "parse_run")
        monkeypatch.setattr(
            f"hf_finetune.cli.{module}.load_recipe", lambda name: load_recipe("quickstart" if "." in name else name)
        )
    for module in ("overrides", "train"):
        monkeypatch.setattr(f"hf_finetune.cli.{module}.read_config_file", lambda arguments: {})
    monkeypatch.setattr(
        sources, "sniff_kind", lambda source: "image" if re.match("photos|digits", source.path) else "text"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.usefixtures("only_parsing")
def test_commands_of_a_page(page: Path) -> None:
    for block in re.findall(r"^ *```bash\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for words in python_examples.commands(block):
            with pytest.raises(Parsed):
                COMMANDS[words[1]].run([*takewhile(lambda word: word not in ("<", ">"), words[2:])])


@pytest.mark.parametrize("recipe", sorted(shipped.names()))
@pytest.mark.usefixtures("only_parsing")
def test_commands_of_a_recipe(recipe: str) -> None:
    text = ast.get_docstring(ast.parse(shipped.names()[recipe].read_text(encoding="utf-8"))) or ""
    for block in re.findall(r"^hf-finetune (?:.*\\\n)*.*$", text, re.MULTILINE):
        for words in python_examples.commands(block):
            with pytest.raises(Parsed):
                COMMANDS[words[1]].run(words[2:])
