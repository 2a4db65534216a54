"""What docstrings and comments name of the package is there: `package.module.name`, `sibling.name`, `Imported.name`."""

import ast
import dataclasses
import io
import re
import tokenize
from functools import cache
from pathlib import Path

import hf_finetune
from hf_finetune import Recipe
from hf_finetune.utils.hints import configs_below

Names = tuple[str, ...]
ROOT = Path(hf_finetune.__file__).parent
MODULES: dict[Names, Path] = {}
for path in ROOT.rglob("*.py"):
    *folder, stem = path.relative_to(ROOT).with_suffix("").parts
    MODULES[(*folder, stem) if stem != "__init__" else tuple(folder)] = path
# The examples of exports have the names of the libraries that compute them.
OURS = {place[-1] for place in MODULES if place and "examples" not in place}
# Of transformers and PEFT.
OTHERS = {"classifier.out_proj", "peft.PeftConfig"}
REFERENCE = re.compile(r"`([A-Za-z_]\w*(?:\.\w+)+)")
FIELDS = {field.name for config in configs_below(Recipe).values() for field in dataclasses.fields(config)}


@cache
def tree(place: Names) -> ast.Module:
    return ast.parse(MODULES[place].read_text())


@cache
def bound(node: ast.AST) -> dict[str, tuple[ast.AST, ast.alias | None]]:
    """Every name that is bound somewhere in a module or a class, fields and attributes too, and what binds it."""
    names: dict[str, tuple[ast.AST, ast.alias | None]] = {}
    for inner in ast.walk(node):
        match inner:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                names.setdefault(name, (inner, None))
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.setdefault(name, (inner, None))
            case ast.Import() | ast.ImportFrom():
                names |= {alias.asname or alias.name: (inner, alias) for alias in inner.names}
    return names


def exists(place: Names, names: Names) -> bool:
    """Whether the module or package at `place` has the name, and that the next one, and so on."""
    if not names:
        return True
    if (*place, names[0]) in MODULES:
        return exists((*place, names[0]), names[1:])
    node, alias = bound(tree(place)).get(names[0], (None, None))
    if isinstance(node, ast.Import):
        return True
    if isinstance(node, ast.ImportFrom) and node.module and alias:
        library, *folder = node.module.split(".")
        return library != "hf_finetune" or exists(tuple(folder), (alias.name, *names[1:]))
    if isinstance(node, ast.ClassDef) and len(names) > 1:
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        return names[1] in bound(node) or any(exists(place, (base, *names[1:])) for base in bases)
    return node is not None


def prose(place: Names) -> list[str]:
    """The comments and docstrings of a module, those of fields too."""
    source = MODULES[place].read_text()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    strings = [node.value for node in ast.walk(tree(place)) if isinstance(node, ast.Expr)]
    return [token.string for token in tokens if token.type == tokenize.COMMENT] + [
        node.value for node in strings if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_names_in_docstrings_and_comments_exist() -> None:
    missing = []
    for place in MODULES:
        imported = {name for name, (node, alias) in bound(tree(place)).items() if alias}
        for reference in REFERENCE.findall("\n".join(prose(place))):
            names = tuple(reference.split("."))
            of_others = (
                reference in OTHERS or names[-1] == "py" or names[0] not in OURS | imported or set(names) <= FIELDS
            )
            if not of_others and not any(exists(place[:depth], names) for depth in range(len(place) + 1)):
                missing.append(f"{'/'.join(place)}: {reference}")
    assert not missing, "\n".join(missing)
