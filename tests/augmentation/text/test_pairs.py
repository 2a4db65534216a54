"""Exchanging the texts of a pair."""

import pickle

import pytest

from hf_finetune.augmentation.operations import TextBatch, generators
from hf_finetune.augmentation.text.pairs import SwapPair
from hf_finetune.errors import InputError

BATCH = TextBatch([f"a{i}" for i in range(400)], [f"b{i}" for i in range(399)] + [""])


def swapped(operation: SwapPair, batch: TextBatch = BATCH, epoch: int = 0) -> list[bool]:
    after = operation(batch, generators(0, range(len(batch)), epoch))
    assert after.pairs is not None and batch.pairs is not None
    rows = zip(after.texts, after.pairs, batch.texts, batch.pairs, strict=True)
    assert all((one, two) in ((first, second), (second, first)) for one, two, first, second in rows)
    return [one != first for one, first in zip(after.texts, batch.texts, strict=True)]


def test_a_share_of_the_pairs_is_swapped_as_whole_pairs() -> None:
    drawn = swapped(SwapPair())
    assert 0.4 < sum(drawn) / 400 < 0.6 and drawn == swapped(SwapPair()) and drawn != swapped(SwapPair(), epoch=1)
    # But for the pair whose second text is empty.
    assert swapped(SwapPair(p=1.0)) == [True] * 399 + [False]
    assert not any(swapped(SwapPair(p=0.0)))
    assert BATCH.texts[0] == "a0" and pickle.loads(pickle.dumps(SwapPair(p=0.3))) == SwapPair(p=0.3)


def test_single_texts_are_refused() -> None:
    with pytest.raises(InputError, match="SwapPair: expected pairs of texts"):
        SwapPair()(TextBatch(["a"]), generators(0, [0], 0))
