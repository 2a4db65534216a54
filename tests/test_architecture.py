"""The floors of the house: a module imports only from floors below its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hf_finetune

ROOT = Path(hf_finetune.__file__).parent
FLOORS = [
    {"errors", "environment", "parity_child"},
    {"artefacts", "codec", "digests", "embedded", "exit_status"},
    {"store", "tables"},
    {"data", "models", "evaluation"},
    {"training", "features", "rewording", "doctor"},
    {"recipe_data"},
    {"recipe"},
    {"objective_checks"},
    {"checks", "no_effect"},
    {"hub"},
    {"run_folder", "parity", "past", "trained", "prepared"},
    {"answers", "apply"},
    {"teacher"},
    {"teacher_fit"},
    {"teacher_report", "teacher_states", "loading"},
    {"preparation", "publishing"},
    {"starting", "finishing", "pretraining"},
    {"pipeline"},
    {"planning"},
    {"rate_finding", "search"},
    {"launcher", "shipped", "recipe_arguments"},
    {"jobs"},
    {"doctor_command"},
    {"cli"},
    {"", "__main__"},
]
LEVEL = {name: level for level, floor in enumerate(FLOORS) for name in floor}
# recipe.py itself and what prepares a command line must stay cheap to import.
CHEAP = (
    "recipe.py",
    "recipe_data.py",
    "checks.py",
    "objective_checks.py",
    "errors.py",
    "codec.py",
    "digests.py",
    "store.py",
    "cli.py",
    "jobs.py",
    "recipe_arguments.py",
    "doctor_command.py",
    "exit_status.py",
    "shipped.py",
    "embedded.py",
    "data/named.py",
    "__init__.py",
)
HEAVY = {"torch", "transformers", "peft", "datasets", "evaluate", "accelerate", "sklearn"}
KNOWS_RECIPE = {
    "recipe.py",
    "checks.py",
    "objective_checks.py",
    "no_effect.py",
    "prepared.py",
    "loading.py",
    "preparation.py",
    "pretraining.py",
    "pipeline.py",
    "planning.py",
    "rate_finding.py",
    "search/augmentation.py",
    "search/bench.py",
    "search/report.py",
    "search/retraining.py",
    "search/timing.py",
    "jobs.py",
    "recipe_arguments.py",
    "doctor_command.py",
    "cli.py",
    "shipped.py",
    "__init__.py",
    "hub/card.py",
    "hub/procedure.py",
}


def modules() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if "_recipes" not in p.parts)


def part(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    mine = part(path)
    for name in imports(path):
        if name.split(".")[0] != "hf_finetune":
            continue
        pieces = name.split(".")
        other = pieces[1] if len(pieces) > 1 and pieces[1] in LEVEL else ""
        assert other == mine or LEVEL[other] < LEVEL[mine], f"{path.name} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_only_these_know_the_recipe(path: Path) -> None:
    knows = any(name.startswith("hf_finetune.recipe") for name in imports(path))
    assert not knows or str(path.relative_to(ROOT)) in KNOWS_RECIPE


def test_no_circles_inside_a_floor() -> None:
    graph: dict[str, set[str]] = {}
    for path in modules():
        name = ".".join(["hf_finetune", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
        graph[name] = {i for i in imports(path) if i.startswith("hf_finetune.")}
    reachable = {
        name: {m for m in graph if any(i == m or i.startswith(f"{m}.") for i in wanted) and m != "hf_finetune"}
        for name, wanted in graph.items()
    }

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        for other in reachable[name] - {name}:
            walk(other, (*trail, name))

    for name in graph:
        walk(name, ())


@pytest.mark.parametrize("name", CHEAP)
def test_cheap_modules_import_nothing_heavy(name: str) -> None:
    assert not {i.split(".")[0] for i in imports(ROOT / name, top_level_only=True)} & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["cp", "quickstart", "."], ["train", "--help"]])
def test_light_commands_load_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    code = (
        "import sys\nfrom hf_finetune.cli import main_command\n"
        f"try:\n    main_command({arguments!r})\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"print('LOADED', sorted(set(sys.modules) & {HEAVY!r}))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert answer.stdout.rstrip().endswith("LOADED []"), answer.stdout


def test_public_names() -> None:
    assert sorted(hf_finetune.__all__) == [
        "Averaging",
        "Batching",
        "Distill",
        "Evaluate",
        "GateError",
        "Hub",
        "ImageData",
        "InputError",
        "Launch",
        "Lora",
        "Model",
        "Optim",
        "Precision",
        "Pretrain",
        "PushError",
        "Recipe",
        "Regularize",
        "StoppedBySignal",
        "Supervised",
        "TextData",
        "Train",
        "TrainingError",
        "main",
        "run",
    ]
    assert all(vars(hf_finetune).get(n) or hf_finetune.__getattr__(n) for n in hf_finetune.__all__)
