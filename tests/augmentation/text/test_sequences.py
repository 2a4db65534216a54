"""The other strand: what becomes of sequences, and of which data."""

import numpy as np
import pytest

from hf_finetune import InputError, Model, Recipe, ReverseComplement, SwapWords, TextData
from hf_finetune.augmentation.operations import TextBatch, generators
from hf_finetune.augmentation.test_time import BOTH_STRANDS
from hf_finetune.config.rules import check


def test_half_of_the_rows_are_the_other_strand() -> None:
    texts = ["AACCG"] * 1000
    changed = ReverseComplement()(TextBatch(texts), generators(0, range(1000), 0)).texts
    assert set(changed) == {"AACCG", "CGGTT"} and abs(changed.count("CGGTT") - 500) < 60
    assert ReverseComplement(0.0)(TextBatch(texts), generators(0, range(1000), 0)).texts == texts


def test_pairs_change_one_by_one_and_an_empty_one_stays() -> None:
    batch = ReverseComplement(1.0)(TextBatch(["AAC", "G"], ["GGU", ""]), generators(0, range(2), 0))
    assert (batch.texts, batch.pairs) == (["GTT", "C"], ["ACC", ""])


def test_both_strands_are_the_row_and_its_complement() -> None:
    assert BOTH_STRANDS.texts({"text": ["AACCG"]}, [0], 1) == {"text": ["CGGTT"]} and BOTH_STRANDS.number == 2


@pytest.mark.parametrize(
    ("sequence", "operation", "message"),
    [
        ("protein", ReverseComplement(), "ReverseComplement is not for proteins; expected none"),
        (None, ReverseComplement(), "ReverseComplement is not for texts; expected it with --sequence dna or rna alone"),
        ("dna", SwapWords(), "SwapWords is not for DNA; expected one of ReverseComplement"),
    ],
)
def test_operations_for_other_data_are_refused(sequence, operation, message: str) -> None:
    data = TextData(path="x.csv", sequence=sequence, augment=(operation,))
    with pytest.raises(InputError, match=f"^data.augment: {message}$"):
        check(Recipe(name="x", data=data, model=Model(checkpoint="bert")))
    with pytest.raises(InputError, match=r"^--augment: ReverseComplement is not for"):
        BOTH_STRANDS.check("text", "protein" if sequence == "protein" else None)
    BOTH_STRANDS.check("text", "dna")
    assert np.all([BOTH_STRANDS.check("text", "rna") is None])
