"""The layers of the package: a module imports from its own sub-package and from layers below it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hf_finetune

ROOT = Path(hf_finetune.__file__).parent
LAYERS = [
    {"errors", "utils"},
    # `data` and `models` do not import each other. Augmentation loads language models, so `models` is below it.
    {"data", "models"},
    {"augmentation", "evaluation"},
    {"features", "training"},
    # A task brings what training and distillation need, and does not know them.
    {"tasks"},
    {"distillation", "pretraining"},
    {"config"},
    {"hub"},
    {"pipeline"},
    {"compression"},
    {"inference", "doctor"},
    {"search"},
    {"cli"},
    {"sklearn"},
    {"", "__main__"},
]
LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}
MOST_ENTRIES = 23
MOST_THAT_KNOW_THE_RECIPE = 8
MOST_ARGUMENTS, MOST_LINES, MANY_LINES, MOST_WITH_MANY_LINES = 12, 80, 40, 50
# What describes a recipe or prepares a command line must stay cheap to import.
CHEAP = (
    "__init__.py",
    "errors.py",
    *(
        f"cli/{name}.py"
        for name in ("main", "parsing", "overrides", "operations", "run_job", "doctor", "shipped", "run", "train")
    ),
)
HEAVY = {"torch", "transformers", "peft", "datasets", "evaluate", "accelerate", "sklearn", "scipy"}


def modules() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if "_recipes" not in p.parts)


def is_cheap(path: Path) -> bool:
    relative = path.relative_to(ROOT)
    is_choice = path.parent.name in ("losses", "objectives") and path.parent.parent.name in (
        "distillation",
        "pretraining",
    )
    if is_choice and path.stem != "functional":
        return True
    return str(relative) in CHEAP or relative.parts[0] == "config" or path.stem == "config"


def part(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_few_entries_at_the_root() -> None:
    assert len([p for p in ROOT.iterdir() if p.name not in ("__pycache__", "_recipes")]) <= MOST_ENTRIES


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    mine = part(path)
    for name in imports(path):
        pieces = name.split(".")
        if pieces[0] != "hf_finetune":
            continue
        other = pieces[1] if len(pieces) > 1 and pieces[1] in LEVEL else ""
        lower = LEVEL[other] < LEVEL[mine] or other == "errors"
        assert other == mine or lower, f"{path.relative_to(ROOT)} imports {name}"


def test_few_modules_know_the_recipe() -> None:
    """Packages that do the work take the sections that they need, not the whole recipe."""
    knows = [p for p in modules() if "hf_finetune.config.recipe.Recipe" in imports(p)]
    assert len(knows) <= MOST_THAT_KNOW_THE_RECIPE
    assert {part(p) for p in knows} <= {"config", "hub", "pipeline", "search", "cli", ""}


def test_functions_are_short_and_take_little() -> None:
    functions = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": node
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    lines = {name: (node.end_lineno or 0) - node.lineno + 1 for name, node in functions.items()}
    assert [name for name, count in lines.items() if count > MOST_LINES] == []
    assert len([name for name, count in lines.items() if count > MANY_LINES]) <= MOST_WITH_MANY_LINES
    taken = {name: len(node.args.args) + len(node.args.kwonlyargs) for name, node in functions.items()}
    assert [name for name, count in taken.items() if count > MOST_ARGUMENTS] == []


def test_no_circular_imports() -> None:
    graph: dict[str, set[str]] = {}
    for path in modules():
        name = ".".join(["hf_finetune", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
        graph[name] = {i for i in imports(path) if i.startswith("hf_finetune.")}
    reachable = {
        name: {m for m in graph if any(i == m or i.startswith(f"{m}.") for i in names) and m != "hf_finetune"}
        for name, names in graph.items()
    }

    finished: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in finished:
            return
        for other in reachable[name] - {name}:
            walk(other, (*trail, name))
        finished.add(name)

    for name in graph:
        walk(name, ())


@pytest.mark.parametrize("path", [p for p in modules() if is_cheap(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_cheap_modules_import_nothing_heavy(path: Path) -> None:
    assert not {i.split(".")[0] for i in imports(path, top_level_only=True)} & HEAVY


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list"], ["cp", "quickstart", "."], ["train", "--help"], ["schema"]]
)
def test_light_commands_load_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    code = (
        "import sys\nfrom hf_finetune.cli.main import main_command\n"
        f"try:\n    main_command({arguments!r})\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"print('LOADED', sorted(set(sys.modules) & {HEAVY!r}))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert answer.stdout.rstrip().endswith("LOADED []"), answer.stdout


def test_public_names() -> None:
    """Editors and type checkers see what is imported when a name is used: all that a recipe can hold, and the verbs."""
    from importlib import import_module

    from hf_finetune import Launch, Recipe
    from hf_finetune.utils.hints import configs_below

    tree = ast.parse((ROOT / "__init__.py").read_text())
    (typing_only,) = (node for node in tree.body if isinstance(node, ast.If))
    homes = {alias.name: node.module for node in typing_only.body for alias in node.names}  # type: ignore[attr-defined]
    assert sorted(homes) == sorted(hf_finetune.__all__) == dir(hf_finetune)
    assert {*configs_below(Recipe), *configs_below(Launch), "main", "run", "InputError"} <= set(homes)
    for name, module in homes.items():
        assert getattr(hf_finetune, name) is getattr(import_module(module), name), name


def test_the_reference_has_every_public_name() -> None:
    """On the page of the API, or among the fields of a recipe, which docs/hooks.py lists."""
    from hf_finetune import Recipe
    from hf_finetune.utils.hints import configs_below

    page = (ROOT.parent / "docs" / "api.md").read_text(encoding="utf-8")
    names = {*hf_finetune.__all__} - {*configs_below(Recipe)}
    assert not [name for name in sorted(names) if not re.search(rf"\b{name}\b", page)]


def test_the_site_has_every_page() -> None:
    """Every page of docs/ is in the `nav` of mkdocs.yml, and so is the page that hooks.py makes of a notebook."""
    docs = ROOT.parent / "docs"
    nav = re.findall(r"[\w-]+\.md", (docs / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2])
    pages = [path.with_suffix(".md").name for path in (*docs.glob("*.md"), *docs.glob("*.ipynb"))]
    assert sorted(nav) == sorted(pages)
