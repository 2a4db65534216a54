"""A teacher and its losses by flags and YAML."""

import dataclasses
from pathlib import Path

import pytest
from helpers.distilled import distilled_recipe

from hf_finetune import Distill, Recipe, Supervised
from hf_finetune.cli.overrides import parse_run
from hf_finetune.cli.run_job import RunJob
from hf_finetune.cli.search import parse_search
from hf_finetune.cli.train import TrainJob, parse_train
from hf_finetune.config.rules import check
from hf_finetune.distillation.config import HardLabel, SoftTargets
from hf_finetune.distillation.weight_schedules import Ramp
from hf_finetune.errors import InputError
from hf_finetune.utils.plain import merge, to_plain

pytestmark = pytest.mark.usefixtures("gate_here")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return distilled_recipe(tmp_path_factory.mktemp("texts"))


def test_unlabelled_rows_need_a_teacher(texts: Recipe) -> None:
    data = dataclasses.replace(texts.data, unlabeled=("more.csv",))
    with pytest.raises(InputError, match=r"^data.unlabeled: "):
        check(dataclasses.replace(texts, data=data, objective=Supervised()))
    job = parse_train(TrainJob, ["nowhere", "--text", "a", "--teacher", "big", "--unlabeled", "b.csv", "c.csv"], "x")
    assert job.recipe.data.unlabeled == ("b.csv", "c.csv")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--teacher", "big"], Distill(teacher="big", label_smoothing=0.1)),
        (["--objective.teacher=big", "--objective.labels-weight", "0"], Distill(teacher="big", labels_weight=0.0, label_smoothing=0.1)),
        (
            ["--teacher", "big", "--objective.kinds", "[HardLabel, {type: SoftTargets, temperature: 4}]"],
            Distill(teacher="big", kinds=(HardLabel(), SoftTargets(4.0)), label_smoothing=0.1),
        ),
        (["--teacher", "big", "--objective.kinds.0.temperature", "5"], Distill(teacher="big", kinds=(SoftTargets(5.0),), label_smoothing=0.1)),
        (["--teacher", "big", "--objective.labels-weight", "0.9:0.1"], Distill(teacher="big", labels_weight=Ramp(0.9, 0.1), label_smoothing=0.1)),
        (["--objective", "{type: Distill, teacher: big, labels_weight: {start: 0, end: 1, form: cosine}}"], Distill(teacher="big", labels_weight=Ramp(0.0, 1.0, "cosine"))),
        (["--objective", "{type: Distill, teacher: big}"], Distill(teacher="big")),
        (["--teacher", "big", "bigger"], Distill(teacher=("big", "bigger"), label_smoothing=0.1)),
        (["--objective", "{type: Distill, teacher: [big, bigger]}"], Distill(teacher=("big", "bigger"))),
        (["--objective.label-smoothing", "0.2"], Supervised(label_smoothing=0.2)),
    ],
)  # fmt: skip
def test_flags(texts: Recipe, flags: list[str], expected: Supervised) -> None:
    """A teacher leaves what the objective said before; an objective written out begins anew."""
    recipe = dataclasses.replace(texts, objective=Supervised(label_smoothing=0.1))
    assert parse_run(RunJob(recipe), flags, "x").recipe.objective == expected
    taught = dataclasses.replace(recipe, objective=expected)
    blank = Recipe(name="", data=texts.data, model=texts.model)
    assert merge(blank, to_plain(taught)) == taught


def test_a_teacher_by_yaml_and_by_train(texts: Recipe, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "data: {text: a}\nobjective: {type: Distill, teacher: runs/big, kinds: [HardLabel]}"
    )
    job = parse_train(TrainJob, ["nowhere", "--config", str(tmp_path / "mine.yaml")], "x")
    assert job.recipe.objective == Distill(teacher="runs/big", kinds=(HardLabel(),))
    job = parse_train(TrainJob, ["nowhere", "--text", "a", "--teacher", "big"], "x")
    assert job.recipe.objective == Distill(teacher="big")
    # A student's fields from the file, its teacher from a flag; both, too, over a recipe that had neither.
    plain = RunJob(dataclasses.replace(texts, objective=Supervised(label_smoothing=0.1)))
    for written, expected in (
        ("{labels_weight: 0.3}", Distill(teacher="big", labels_weight=0.3, label_smoothing=0.1)),
        ("{type: Distill, kinds: [HardLabel]}", Distill(teacher="big", kinds=(HardLabel(),))),
        ("{type: Distill, teacher: other}", Distill(teacher="big")),
        ("Distill", Distill(teacher="big")),
        ("{type: Supervised, r_drop: 1}", Distill(teacher="big", r_drop=1.0)),
    ):
        (tmp_path / "mine.yaml").write_text(f"objective: {written}")
        flags = ["--config", str(tmp_path / "mine.yaml"), "--teacher", "big"]
        assert parse_run(plain, flags, "x").recipe.objective == expected, written
    with pytest.raises(InputError, match=r"--teacher: .*search"):
        parse_search(["nowhere", "--text", "a", "--teacher", "big"], "x")
    with pytest.raises(InputError, match=r"^--objective.labels-weight: .*--teacher MODEL"):
        parse_train(TrainJob, ["nowhere", "--text", "a", "--objective.labels-weight", "0.2"], "x")
    with pytest.raises(InputError, match=r"objective.teacher: this field is needed"):
        parse_train(TrainJob, ["nowhere", "--text", "a", "--objective", "Distill"], "x")
