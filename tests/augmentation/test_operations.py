"""Random numbers by row, and the batches that operations change."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from hf_finetune.augmentation.operations import (
    ImageBatch,
    Population,
    TextBatch,
    apply,
    each,
    generators,
)
from hf_finetune.augmentation.text.characters import ChangeCase
from hf_finetune.errors import InputError


def test_a_generator_depends_on_seed_row_epoch_and_view_alone() -> None:
    drawn = {
        key: generators(key[0], [key[1]], key[2], key[3])[0].random()
        for key in [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    }
    assert len(set(drawn.values())) == 5
    assert [r.random() for r in generators(0, [5, 1, 0], 0)][1] == drawn[0, 1, 0, 0], "whatever the batch"


def test_a_single_generator_gives_each_row_a_child() -> None:
    first, again = (each(np.random.default_rng(3), 2) for _ in range(2))
    values = [r.random() for r in first]
    assert values == [r.random() for r in again] and values[0] != values[1]


def test_take_and_put() -> None:
    batch = TextBatch(["a", "b", "c"], ["x", "y", "z"], np.array([0, 1, 2]))
    part = batch.take(np.array([2, 0]))
    assert (part.texts, part.pairs, part.labels.tolist()) == (["c", "a"], ["z", "x"], [2, 0])
    put = batch.put(np.array([2, 0]), replace(part, texts=["C", "A"]))
    assert put.texts == ["A", "b", "C"] and batch.texts == ["a", "b", "c"]

    images = ImageBatch(torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 3, 1, 1))
    part = images.take(np.array([1]))
    put = images.put(np.array([1]), replace(part, pixels=part.pixels + 10))
    assert put.pixels[:, 0, 0, 0].tolist() == [0, 11, 2] and images.pixels[1, 0, 0, 0] == 1


def test_population_by_hand() -> None:
    population = Population(("a", "b", "c"), np.array([0, 2, 0, 0]), ["w", "x", "y", "z"])
    assert population.rows_per_class.tolist() == [3, 0, 1]
    assert [rows.tolist() for rows in population.rows_of] == [[0, 2, 3], [], [1]]


def test_second_texts_change_unless_empty() -> None:
    batch = ChangeCase(1.0, "upper")(TextBatch(["a", "b"], ["c", " "]), np.random.default_rng(0))
    assert (batch.texts, batch.pairs) == (["A", "B"], ["C", " "])


@dataclass(frozen=True)
class Erase:
    strength: float = 1.0

    def __call__(self, batch: TextBatch, rng) -> TextBatch:
        return replace(batch, texts=[" "] * len(batch))


def test_an_empty_result_is_refused_with_the_operation_and_the_text() -> None:
    with pytest.raises(InputError, match=r"data.augment: Erase\(strength=1.0\) leaves nothing of the text 'one two'"):
        apply([Erase()], TextBatch(["one two"]), np.random.default_rng(0))
    assert apply([Erase()], TextBatch([" "]), np.random.default_rng(0)).texts == [" "], "nothing was there before"
