"""Several columns on the command line. `--label a b c` is `--label a,b,c` where no word after it can be DATA."""

import pytest

from hf_finetune.cli.arguments import Flags, with_joined_labels
from hf_finetune.cli.features import FeaturesJob
from hf_finetune.cli.parsing import parse


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("d.csv --label a b c", "d.csv --label a,b,c"),
        ("d.csv --label-column a b --epochs 2", "d.csv --label-column a,b --epochs 2"),
        ("d.csv --data.label a b", "d.csv --data.label a,b"),
        ("d.csv --label=a", "d.csv --label=a"),
        ("d.csv --epochs 2 --label a --seed 1", "d.csv --epochs 2 --label a --seed 1"),
        # The last word is DATA.
        ("--label a d.csv", "--label a d.csv"),
        ("--epochs 2 --label a d.csv", "--epochs 2 --label a d.csv"),
    ],
)
def test_words_after_the_flag(arguments: str, expected: str) -> None:
    assert with_joined_labels(Flags(required=["DATA"]), arguments.split()) == expected.split()


def test_all_positional_arguments_come_first() -> None:
    two = Flags(required=["MODEL", "DATA"])
    assert with_joined_labels(two, ["m", "--label", "a", "d"]) == ["m", "--label", "a", "d"]
    assert with_joined_labels(two, ["m", "d", "--label", "a", "b"]) == ["m", "d", "--label", "a,b"]
    # The data come from a file.
    assert with_joined_labels(Flags(), ["--config", "f", "--label", "a", "b"]) == ["--config", "f", "--label", "a,b"]


@pytest.mark.parametrize("words", (["price", "shop"], ["price,shop"], ["price,", "shop"], ["price, shop"]))
def test_features_with_spaces_or_commas(words: list[str]) -> None:
    job = parse(FeaturesJob, ["d.csv", "--features", *words, "--output", "f.csv"], "hf-finetune features")
    assert job.features == ("price", "shop")
