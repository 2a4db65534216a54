"""The order of the classes."""

from hf_finetune.data.labels import order_classes


def test_order_of_classes() -> None:
    assert order_classes({"b", "a", "B"}) == ("B", "a", "b")
    assert order_classes({"10", "9", "-1"}) == ("-1", "9", "10")
    assert order_classes({"10", "9", "x"}) == ("10", "9", "x")
    assert order_classes({"b", "a"}, declared=("z", "b", "a")) == ("b", "a")
