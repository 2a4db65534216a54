"""Rows that only a teacher labels, and teacher predictions from a file."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from helpers.distilled import distilled_recipe, dry_run_weights, furthest, result_of, trained
from helpers.small_runs import text_rows

from hf_finetune import Distill, Recipe
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.cli import main
from hf_finetune.data.unlabeled import with_labeled_row
from hf_finetune.distillation.config import HardLabel, SoftTargets
from hf_finetune.errors import InputError
from hf_finetune.pipeline.load_data import load_splits
from hf_finetune.pipeline.plan import plan
from hf_finetune.pipeline.run import prepare
from hf_finetune.training.losses.config import Balanced

pytestmark = pytest.mark.usefixtures("gate_here")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return distilled_recipe(tmp_path_factory.mktemp("texts"))


def test_teacher_predictions_from_a_file(texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `predict --digests` writes teaches as the classifier itself: the probabilities of all rows, carved or
    not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    big, given = texts.objective.teacher, tmp_path / "given.parquet"
    main.COMMANDS["predict"].run([big, texts.data.path, "--output", given.name, "--digests", "--precision", "float32"])
    # Logits are known but for a constant.
    soft = {"kinds": (SoftTargets(), HardLabel(0.1))}
    by_model, by_file = (
        dry_run_weights(
            dataclasses.replace(texts, objective=dataclasses.replace(texts.objective, teacher=name, **soft))
        )
        for name in (big, str(given))
    )
    assert furthest(by_model, by_file) < 1e-4
    augmented = dataclasses.replace(texts.data, augment=(SwapWords(),))
    taught = dataclasses.replace(texts, objective=Distill(teacher=str(given)))
    with pytest.raises(InputError, match=r"^data.augment: expected none beside .*given.parquet"):
        prepare(dataclasses.replace(taught, data=augmented))
    pq.write_table(pq.read_table(given).slice(1), given)
    with pytest.raises(
        InputError, match=r"^objective.teacher: .* (train|validation), .*given.parquet for 1 of the \d+ rows"
    ):
        prepare(taught)


def test_unlabelled_rows(texts: Recipe, tmp_path: Path) -> None:
    """20 rows of a further file, two of them scored ones: taught with their stored copies, and no part of the
    baselines."""
    held_out = load_splits(texts.data).validation["text"][:2]
    lines = ["text", *held_out, *(f"{row['text']} indeed" for row in text_rows(18, seed=5))]
    (tmp_path / "more.csv").write_text("\n".join(lines))
    data = dataclasses.replace(
        texts.data, unlabeled=(str(tmp_path / "more.csv"),), augment=(SwapWords(),), augment_copies=1
    )
    fields = {"train": dataclasses.replace(texts.train, num_train_epochs=1.0), "data": data}
    fields |= {"evaluate": dataclasses.replace(texts.evaluate, baselines=True)}
    fields |= {"batching": dataclasses.replace(texts.batching, sampling="balanced")}
    assert plan(prepare(dataclasses.replace(texts, **fields))).steps == 18
    trained(texts, tmp_path / "run", **fields)
    result = result_of(tmp_path / "run")
    assert result["rows"] == {"train": 54, "unlabelled": 18, "validation": 6} and result["steps"] == 18
    assert result["data"]["unlabelled"] == {"rows": 18, "evaluated": 2, "repeated": 0, "unusable": 0}
    assert result["augmentation"]["training_rows"] == 144 and sum(result["data"]["rows_per_class"].values()) == 54
    card = (tmp_path / "run" / "README.md").read_text()
    assert "18 rows of more.csv for the teacher to label; dropped: 2 that equal" in card


def test_a_plan_tries_a_row_with_a_label_where_they_are_rare(texts: Recipe, tmp_path: Path) -> None:
    """Of many rows that only the teacher labels, the few that are tried had none."""
    more = tmp_path / "more.csv"
    more.write_text("text\n" + "".join(f"film number {i} of them all\n" for i in range(1500)))
    recipe = dataclasses.replace(
        texts,
        data=dataclasses.replace(texts.data, unlabeled=(str(more),), max_train_rows=2),
        objective=dataclasses.replace(texts.objective, class_weights=Balanced()),
    )
    assert plan(prepare(recipe)).parts["teacher_s"] > 0
    labels = Dataset.from_dict({"label": [-1, 0, -1, 1]})
    assert list(with_labeled_row(np.array([2, 0]), labels)) == [0, 1, 2]
    assert list(with_labeled_row(np.array([3, 0]), labels)) == [0, 3]
