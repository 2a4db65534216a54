"""What has no evidence is marked in its docstring; help, schema, docs and the notes of a run show the mark."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from hf_finetune import (
    Distill,
    HiddenStates,
    ImageData,
    Mixup,
    Model,
    NarrowHidden,
    Pretrain,
    Recipe,
    Supervised,
    TextData,
)
from hf_finetune.augmentation.image.geometry import Flip
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.cli.classify import ClassifyJob
from hf_finetune.cli.main import main_command
from hf_finetune.cli.search import SearchJob
from hf_finetune.config.json_schema import json_schema
from hf_finetune.data.config import SourceSplit
from hf_finetune.distillation.losses.attention_relations import AttentionRelations
from hf_finetune.pretraining.config import SimCSE
from hf_finetune.training.config import Batching
from hf_finetune.utils.experimental import experimental_notes, mark_in, marks_below
from hf_finetune.utils.hints import field_docstrings

DOCS = Path(__file__).parents[2] / "docs"
TEXT = Recipe(name="a", data=TextData(path="x"), model=Model("m"))
IMAGE = replace(TEXT, data=ImageData(path="x"))
STUDENT = replace(TEXT, data=TextData(path="x", unlabeled=("train",)))
MARKS = marks_below(Recipe)
# A recipe that uses it, and its name in the note.
USED: dict[str, tuple[Recipe, str]] = {
    "TextData.augment": (replace(TEXT, data=TextData(path="x", augment=(SwapWords(),))), "data.augment"),
    "ImageData.augment": (replace(TEXT, data=ImageData(path="x", augment=(Flip(),))), "data.augment"),
    "ImageData.low_resolution": (replace(TEXT, data=ImageData(path="x", low_resolution=64)), "data.low_resolution"),
    "Model.patch_drop": (replace(IMAGE, model=Model("m", patch_drop=0.5)), "model.patch_drop"),
    "NarrowHidden": (
        replace(TEXT, model=Model("m", surgery=(NarrowHidden(ratio=0.5),))),
        "model.surgery: NarrowHidden",
    ),
    "Batching.token_budget": (replace(TEXT, batching=Batching(token_budget=512)), "batching.token_budget"),
    "Batching.unpadded": (replace(TEXT, batching=Batching(unpadded=True)), "batching.unpadded"),
    "Supervised.mix": (replace(TEXT, objective=Supervised(mix=(Mixup(),))), "objective.mix"),
    "Distill.mix": (replace(STUDENT, objective=Distill(teacher="t", mix=(Mixup(),))), "objective.mix"),
    "Distill": (replace(TEXT, objective=Distill(teacher="t")), "objective: Distill"),
    "HiddenStates": (
        replace(STUDENT, objective=Distill(teacher="t", kinds=(HiddenStates(),))),
        "objective.kinds: HiddenStates",
    ),
    "AttentionRelations": (
        replace(STUDENT, objective=Distill(teacher="t", kinds=(AttentionRelations(),))),
        "objective.kinds: AttentionRelations",
    ),
    "Pretrain.objective": (replace(TEXT, pretrain=Pretrain(objective=SimCSE())), "pretrain.objective"),
}


def words(text: str) -> str:
    """Return a text without the frames and line breaks of help."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit):
        main_command(arguments)
    return words(capsys.readouterr().out)


def test_every_mark_has_a_recipe() -> None:
    assert USED.keys() == MARKS.keys()


@pytest.mark.parametrize("name", MARKS)
def test_the_note_of_a_run(name: str) -> None:
    recipe, used = USED[name]
    (note,) = experimental_notes(recipe)
    assert note == MARKS[name].note(used) and note.startswith(f"{used} is experimental") and "; see docs/" in note


def test_no_note_at_the_defaults_or_where_the_condition_holds() -> None:
    assert experimental_notes(TEXT) == () and experimental_notes(IMAGE) == ()
    assert experimental_notes(replace(STUDENT, objective=Distill(teacher="t"))) == ()


def test_help_has_all_marks(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ((), ("--image", "image"), ("--teacher", "t"))
    text = " ".join(help_of(capsys, "train", *kind, "--help-all") for kind in kinds)
    assert [name for name, mark in MARKS.items() if mark.text not in text] == []
    assert re.search("--augment YAML experimental: ", help_of(capsys, "train", "--help"))


def test_the_schema_has_the_marks_of_fields() -> None:
    text = words(json.dumps(json_schema(Recipe)))
    assert [name for name, mark in MARKS.items() if "." in name and mark.text not in text] == []


def test_the_docs_have_all_marks() -> None:
    rows = words((DOCS / "techniques.md").read_text(encoding="utf-8"))
    commands = [mark_in(SearchJob.__doc__), mark_in(field_docstrings(ClassifyJob)["augment"])]
    assert [mark for mark in [*MARKS.values(), *commands] if mark is None or mark.measured not in rows] == []


@pytest.mark.parametrize("page", sorted({mark.page for mark in MARKS.values()}))
def test_the_page_and_its_section_exist(page: str) -> None:
    file, _, section = page.partition("#")
    titles = re.findall(r"^#+ (.+)$", (DOCS.parent / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert not section or section in {title.lower().replace(" ", "-") for title in titles}


def test_commands_that_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    (note,) = experimental_notes(ClassifyJob("m", SourceSplit("x"), augment="[Flip]", views=2), "--")
    assert note.startswith("--augment is experimental: no better on movie reviews")
    assert note.partition(": ")[2].partition(";")[0] in help_of(capsys, "evaluate", "--help")
    search = mark_in(SearchJob.__doc__)
    assert search is not None and search.text in help_of(capsys, "search", "augmentation", "--help")


def test_a_mark_by_hand() -> None:
    assert mark_in("A field. None: off.") is None and mark_in(None) is None
    mark = mark_in("""A field. Experimental without a.b: worse
    once (docs/x.md#y-z).""")
    assert mark is not None and (mark.measured, mark.page, mark.unless) == ("worse once", "docs/x.md#y-z", "a.b")
    assert mark.note("f") == "f is experimental without a.b: worse once; see docs/x.md#y-z"
