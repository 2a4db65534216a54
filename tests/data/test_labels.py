"""The cells of labels, and the order of the classes."""

import pytest

from hf_finetune.data.labels import check_classes, literal_list, order_classes, similar_labels


def test_literal_lists() -> None:
    assert literal_list(" ['a', 1] ") == ["a", 1]
    # The first one has a key that Python cannot hash.
    for text in ("[{[1]: 2}]", "['a', null]", "[a", "[a]", "('a',)"):
        assert literal_list(text) == text
    assert literal_list(None) is None and literal_list(["[1]"]) == ["[1]"]


def test_order_of_classes() -> None:
    assert order_classes({"b", "a", "B"}) == ("B", "a", "b")
    assert order_classes({"10", "9", "-1"}) == ("-1", "9", "10")
    assert order_classes({"10", "9", "x"}) == ("10", "9", "x")
    assert order_classes({"b", "a"}, declared=("z", "b", "a")) == ("b", "a")


def test_labels_that_differ_only_in_case_or_white_space() -> None:
    assert similar_labels(["yes", "no", "yes ", "Yes", "a  b", "a b", "ab"]) == [
        ["yes", "yes ", "Yes"],
        ["a  b", "a b"],
    ]
    assert similar_labels(["1", "2", "yes"]) == []


def test_similar_labels_are_named_before_training(caplog: pytest.LogCaptureFixture) -> None:
    check_classes(["Yes", "no", "yes", "yes "], 100, "rows.csv", "label")
    assert "rows.csv: some labels in column 'label' differ only in case or white space" in caplog.text
    assert "'Yes', 'yes', 'yes '" in caplog.text and "write each class in one way" in caplog.text
