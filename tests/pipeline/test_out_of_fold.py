"""The folds of a run's rows."""

from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import csv_file, texts

from hf_finetune import Evaluate, InputError, Model, Recipe, TextData
from hf_finetune.pipeline.context import ClassicalRun
from hf_finetune.pipeline.load_data import load_splits
from hf_finetune.pipeline.out_of_fold import folds_of


def run_on(path: Path) -> ClassicalRun:
    data = TextData(path=str(path))
    return ClassicalRun(
        Recipe("a", data, Model("m"), method="classical", evaluate=Evaluate(folds=3)), load_splits(data)
    )


def test_a_fold_that_has_the_only_other_class_is_refused(tmp_path: Path) -> None:
    one = csv_file(tmp_path / "one.csv", [*texts(30, ("no",)), ("another text", "yes")])
    with pytest.raises(InputError, match=r"all rows but those of 'no' are in one fold, .* a single class"):
        folds_of(run_on(one))
    two = csv_file(tmp_path / "two.csv", [*texts(30, ("no",)), ("another text", "yes"), ("and one more", "yes")])
    assert np.bincount(folds_of(run_on(two))[0]).tolist() in ([11, 11, 10], [11, 10, 11], [10, 11, 11])
