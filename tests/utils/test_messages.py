"""Numbers and the words that go with them, and suggestions."""

from hf_finetune.utils.messages import counted, did_you_mean, plural, row_place


def test_forms_of_words() -> None:
    assert [counted(n, "row") for n in (0, 1, 2, 1200)] == ["0 rows", "1 row", "2 rows", "1,200 rows"]
    assert counted(1, "class has", "classes have") == "1 class has"
    assert plural(1, "is", "are") == "is" and plural(0, "is", "are") == "are"


def test_rows_count_from_0_and_lines_from_1() -> None:
    assert row_place(3) == "row 3 counted from 0" and row_place(3, 5) == "row 3 (line 5)"


def test_dashes_make_no_flags_similar() -> None:
    flags = ["--variant", "--epochs", "--train.learning-rate"]
    assert did_you_mean("--overwrite", flags) == ""
    assert did_you_mean("--Epoch", flags) == ", did you mean '--epochs'?"
    assert did_you_mean("learning-rate", flags) == ", did you mean '--train.learning-rate'?"
