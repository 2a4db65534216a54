"""Augmentations made of augmentations."""

import pickle

import numpy as np
import pytest
import torch
import yaml

from hf_finetune import InputError, Model, Recipe, TextData
from hf_finetune.augmentation.compose import Compose, OneOf, Phases, Sometimes, check_kind, leaves, walk
from hf_finetune.augmentation.image.geometry import Flip
from hf_finetune.augmentation.operations import ImageBatch, Population, TextBatch, generators
from hf_finetune.augmentation.text.characters import ChangeCase, KeyboardTypos
from hf_finetune.augmentation.text.presets import Aeda
from hf_finetune.augmentation.text.words import DeleteWords, SwapWords
from hf_finetune.utils.plain import merge, to_plain

UPPER, LOWER, TITLE = (ChangeCase(1.0, to=to) for to in ("upper", "lower", "title"))
DEEP = Compose((OneOf((SwapWords(0.3), Sometimes(DeleteWords(0.3), 0.9))), KeyboardTypos(0.3)))
TEXTS = [f"the {word} is only one of these words" for word in ("first", "second", "third", "fourth")]


def rngs(count: int, epoch: int = 0) -> list[np.random.Generator]:
    return generators(0, range(count), epoch)


def share_changed(operation, batch: TextBatch) -> np.ndarray:
    """How often each row comes out in capitals, over 400 epochs."""
    results = [operation(batch, rngs(len(batch), epoch)).texts for epoch in range(400)]
    return np.mean([[text.isupper() for text in texts] for texts in results], axis=0)


def test_compose_applies_in_order() -> None:
    assert Compose((UPPER, LOWER))(TextBatch(["aB", "Cd"]), rngs(2)).texts == ["ab", "cd"]
    assert Compose((LOWER, UPPER))(TextBatch(["aB", "Cd"]), rngs(2)).texts == ["AB", "CD"]
    assert Compose(())(TextBatch(["x"]), rngs(1)).texts == ["x"]


def test_one_of_draws_each_row_by_weight() -> None:
    batch = TextBatch(["one two"] * 3)
    assert np.allclose(share_changed(OneOf((UPPER, LOWER)), batch), 0.5, atol=0.1)
    assert np.allclose(share_changed(OneOf((UPPER, LOWER), (3.0, 1.0)), batch), 0.75, atol=0.1)
    assert share_changed(OneOf((UPPER, LOWER), (0.0, 1.0)), batch).tolist() == [0, 0, 0]
    rows = [OneOf((UPPER, LOWER))(batch, rngs(3, epoch)).texts for epoch in range(20)]
    assert any(len(set(texts)) == 2 for texts in rows), "not one draw for the whole batch"


def test_sometimes_by_row_and_by_class_frequency() -> None:
    labels = np.array([0, 1, 2])
    population = Population(("rare", "often", "most"), np.repeat([0, 1, 2], [2, 4, 8]), ["x y"] * 14)
    batch = TextBatch(["one two"] * 3, None, labels, population)
    assert np.allclose(share_changed(Sometimes(UPPER, 0.3), batch), 0.3, atol=0.08)
    assert np.allclose(share_changed(Sometimes(UPPER, 0.8, "rare"), batch), [0.8, 0.4, 0.2], atol=0.08)
    assert np.allclose(share_changed(Sometimes(UPPER, 0.8, "rare"), TextBatch(batch.texts)), 0.8, atol=0.08), (
        "no classes"
    )
    assert share_changed(Sometimes(UPPER, 0.0), batch).tolist() == [0, 0, 0]
    assert share_changed(Sometimes(UPPER, 1.0), batch).tolist() == [1, 1, 1]


def test_sometimes_by_the_rarest_tag_of_a_row() -> None:
    """Of 8 rows two have a, six b, one of them both, and one has none."""
    hot = np.array([[1, 0], [1, 1], *[[0, 1]] * 5, [0, 0]])
    population = Population(("a", "b"), hot, ["x y"] * 8)
    labels = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [-1, -1]])
    assert population.class_sizes(labels).tolist() == [2, 6, 2, 1, 6] and population.smallest_class == 1
    batch = TextBatch(["one two"] * 5, None, labels, population)
    shares = share_changed(Sometimes(UPPER, 0.9, "rare"), batch)
    assert np.allclose(shares, [0.45, 0.15, 0.45, 0.9, 0.15], atol=0.08)


def test_phases_follow_progress() -> None:
    batch = TextBatch(["xY"] * 4, progress=np.array([0.6, 0.0, 0.25, 0.99]))
    phases = Phases((UPPER, LOWER, Compose(())), (0.25, 0.7))
    assert phases(batch, rngs(4)).texts == ["xy", "XY", "xy", "xY"]
    assert Phases((UPPER, LOWER, TITLE))(batch, rngs(4)).texts == ["xy", "XY", "XY", "Xy"]
    # Each row by its own, inside what draws rows as well.
    assert OneOf((phases,))(batch, rngs(4)).texts == ["xy", "XY", "xy", "xY"]
    pixels = torch.arange(2 * 3 * 2 * 2, dtype=torch.uint8).view(2, 3, 2, 2)
    shown = Phases((Flip(p=1.0), Compose(())))(ImageBatch(pixels, progress=np.array([0.4, 0.5])), rngs(2)).pixels
    assert torch.equal(shown, torch.stack([pixels[0].flip(-1), pixels[1]]))
    with pytest.raises(InputError, match=r"^Phases: expected rows of a training step"):
        phases(TextBatch(["x"]), rngs(1))


def test_a_row_does_not_depend_on_its_batch() -> None:
    whole = DEEP(TextBatch(TEXTS), rngs(4)).texts
    assert [DEEP(TextBatch([TEXTS[i]]), generators(0, [i], 0)).texts[0] for i in range(4)] == whole
    assert DEEP(TextBatch(TEXTS), rngs(4)).texts == whole != DEEP(TextBatch(TEXTS), rngs(4, 1)).texts
    assert pickle.loads(pickle.dumps(DEEP))(TextBatch(TEXTS), rngs(4)).texts == whole


def test_combinators_on_images() -> None:
    pixels = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2)
    flipped = Sometimes(Flip(p=1.0), 0.5)(ImageBatch(pixels), rngs(4)).pixels
    rows = [torch.equal(flipped[i], pixels[i].flip(-1)) for i in range(4)]
    assert rows == [r.random() < 0.5 for r in rngs(4)]
    assert all(torch.equal(flipped[i], pixels[i]) for i in range(4) if not rows[i])


def test_walk_and_leaves() -> None:
    assert leaves([DEEP, Aeda()]) == [SwapWords(0.3), DeleteWords(0.3), KeyboardTypos(0.3), Aeda()]
    assert len(list(walk([DEEP, Aeda()]))) == 7
    assert leaves([Phases((DEEP, Aeda()))]) == leaves([DEEP, Aeda()])


def test_yaml_round_trip_and_names() -> None:
    phases = Phases((DEEP, Compose(()), Aeda()), (0.25, 0.5))
    assert pickle.loads(pickle.dumps(phases)) == phases
    augment = (DEEP, Sometimes(Aeda(), 0.2, "rare"), phases)
    recipe = Recipe(name="a", data=TextData(path="x", augment=augment), model=Model("m"))
    plain = yaml.safe_load(yaml.safe_dump(to_plain(recipe)))
    assert merge(Recipe(name="", data=TextData(path=""), model=Model("")), plain) == recipe
    written = yaml.safe_load("[DeleteWords, {type: KeyboardTypos, p: 0.05}, {type: OneOf, choices: [Aeda, SwapWords]}]")
    actual = merge(recipe, {"data": {"augment": written}}).data.augment
    assert actual == (DeleteWords(), KeyboardTypos(0.05), OneOf((Aeda(), SwapWords())))


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"OneOf.choices: expected"):
        OneOf(())
    for weights in ((1.0,), (-1.0, 2.0), (0.0, 0.0), (float("inf"), 1.0), (float("nan"), 1.0)):
        with pytest.raises(InputError, match=r"^OneOf.weights"):
            OneOf((UPPER, LOWER), weights)
    with pytest.raises(InputError, match=r"Sometimes.p: expected 0 to 1, got 1.5"):
        Sometimes(UPPER, 1.5)
    with pytest.raises(InputError, match=r"Phases.phases: expected"):
        Phases(())
    for starts in ((0.5, 0.6), (0.0,), (1.0,), (-0.1,), (float("nan"),)):
        with pytest.raises(InputError, match=r"^Phases.starts"):
            Phases((UPPER, LOWER), starts)
    for starts in ((0.6, 0.5), (0.5, 0.5)):
        with pytest.raises(InputError, match=r"Phases.starts: expected 2 rising numbers"):
            Phases((UPPER, LOWER, UPPER), starts)


def test_operations_of_the_other_kind() -> None:
    check_kind([DEEP], "text")
    check_kind([Sometimes(Flip())], "image")
    with pytest.raises(
        InputError, match=r"data.augment: Flip is not for texts; expected one of SwapWords, DeleteWords"
    ):
        check_kind([Compose((Sometimes(Flip()),))], "text")
    with pytest.raises(InputError, match=r"data.augment: SwapWords is not for images; expected one of .*Flip"):
        check_kind([DEEP], "image")
