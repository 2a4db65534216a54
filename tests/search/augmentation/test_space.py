"""What a search can choose, and the policies made of it."""

import dataclasses
import typing

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

from hf_finetune.augmentation.compose import Compose, OneOf, Phases, Sometimes
from hf_finetune.augmentation.image.geometry import Rotate
from hf_finetune.augmentation.mixing import CutMix, Mixup, ResizeMix
from hf_finetune.augmentation.operations import ImageBatch, TextBatch, generators
from hf_finetune.augmentation.text.words import DeleteWords, SwapWords
from hf_finetune.search.augmentation.policy import BRANCHES, LEVELS, MOVES, NONE, Move, Policy
from hf_finetune.search.augmentation.space import IMAGE_OPERATIONS, RAND_AUGMENT, Space, space_of
from hf_finetune.search.searchers.base import at_random

SPACE = Space({"Swap": SwapWords, "Delete": DeleteWords})
TEXTS = TextBatch(["one two three four. five six", "seven eight nine"], None, np.array([0, 1]))


def test_a_policy_as_operations() -> None:
    one = Policy(((Move("Swap", 0.4, 0.2), Move("Delete", 1.0, 0.6)),))
    assert SPACE.augment(one) == (Sometimes(SwapWords(0.2), 0.4), DeleteWords(0.6))
    two = Policy((*one.branches, (Move("Swap", 1.0, 1.0),)), draws=2)
    drawn = OneOf((Compose((Sometimes(SwapWords(0.2), 0.4), DeleteWords(0.6))), SwapWords(1.0)))
    assert SPACE.augment(two) == (drawn, drawn)
    assert SPACE.augment(NONE) == ()


def test_the_policies_of_one_or_two_numbers() -> None:
    assert SPACE.augment(SPACE.rand_augment(0.4, 2)) == (OneOf((SwapWords(0.4), DeleteWords(0.4))),) * 2
    (any_magnitude,) = SPACE.augment(SPACE.trivial_augment())
    assert {o.p for o in any_magnitude.choices} == set(LEVELS) and len(any_magnitude.choices) == 2 * len(LEVELS)


def test_augment_in_phases() -> None:
    swap, both = Policy(((Move("Swap", 1.0, 0.2),),)), SPACE.rand_augment(0.6, 2)
    drawn = OneOf((SwapWords(0.6), DeleteWords(0.6)))
    assert SPACE.augment_in_phases((swap,), ()) == (SwapWords(0.2),)
    assert SPACE.augment_in_phases((swap, NONE, both), (0.25, 0.5)) == (
        Phases((SwapWords(0.2), Compose(()), Compose((drawn, drawn))), (0.25, 0.5)),
    )
    # What does not change is no new phase.
    assert SPACE.augment_in_phases((swap, swap, NONE), (0.25, 0.5)) == (Phases((SwapWords(0.2), Compose(())), (0.5,)),)
    assert SPACE.augment_in_phases((swap, swap, swap), (0.25, 0.5)) == (SwapWords(0.2),)


def test_a_policy_that_mixes() -> None:
    space = dataclasses.replace(SPACE, mixings=(Mixup, CutMix))
    policy = Policy(((Move("Swap", 1.0, 0.2),),), mix=Move("CutMix", probability=0.4, magnitude=0.8))
    assert space.mix(policy) == (CutMix(alpha=0.8, p=0.4),) and space.augment(policy) == (SwapWords(0.2),)
    assert space.mix(NONE) == ()
    assert str(policy) == "Swap 0.2 + CutMix 0.8 x 0.4"
    assert [str(p) for p in space.only_mixing()] == ["Mixup 0.2", "CutMix 1"]
    assert [space.mix(p) for p in space.only_mixing()] == [(Mixup(),), (CutMix(),)] and space.augment(
        space.only_mixing()[0]
    ) == ()


def test_random_mixing_and_its_neighbors() -> None:
    space, rng = dataclasses.replace(SPACE, mixings=(Mixup, CutMix)), np.random.default_rng(0)
    observed = [space.candidate(at_random(rng)).mix for _ in range(300)]
    for name in (None, "Mixup", "CutMix"):
        assert 80 < sum((mix and mix.operation) == name for mix in observed) < 120
    near = [space.near(Policy(mix=Move("Mixup", 0.6, 0.6)), rng).mix for _ in range(300)]
    same = [
        m for m in near if m and m.operation == "Mixup" and 0.4 <= m.probability <= 0.8 and 0.4 <= m.magnitude <= 0.8
    ]
    assert 0.75 < len(same) / len(near) < 0.95 and {mix and mix.operation for mix in near} == {None, "Mixup", "CutMix"}
    assert all(SPACE.candidate(at_random(rng)).mix is None for _ in range(20))


def test_near_changes_a_level_or_the_operation() -> None:
    rng, policy = np.random.default_rng(0), Policy(((Move("Swap", 0.6, 0.6),) * MOVES,) * BRANCHES)
    observed = [move for _ in range(200) for branch in SPACE.near(policy, rng).branches for move in branch]
    same = [m for m in observed if m.operation == "Swap" and 0.4 <= m.probability <= 0.8 and 0.4 <= m.magnitude <= 0.8]
    assert 0.75 < len(same) / len(observed) < 0.95
    assert {m.magnitude for m in observed} == set(LEVELS)


def test_every_operation_of_texts_with_a_share_is_there() -> None:
    space, left_out = space_of(TEXTS)
    assert {"SwapWords", "DeleteWords", "KeyboardTypos", "Aeda"} <= set(space.names)
    assert not {"Eda", "SubstituteByModel", "BackTranslate"} & set(space.names)
    assert space.mixing_names == ("Mixup",)
    # MixHalves needs the training rows.
    assert [line.split(" is ")[0] for line in left_out] == ["MixHalves"]


def test_unsuitable_operations_are_excluded_with_a_note() -> None:
    pairs = TextBatch(TEXTS.texts, list(TEXTS.texts), TEXTS.labels)
    space, left_out = space_of(pairs)
    assert "MixHalves" not in space.names and "pairs" in left_out[0]
    space, left_out = space_of(TEXTS, "it cannot be")
    assert space.mixings == () and left_out[-1] == "mixing rows is not in the space: it cannot be"


@pytest.mark.parametrize("magnitude", LEVELS)
def test_every_operation_of_images_at_every_magnitude(magnitude: float) -> None:
    pixels = torch.randint(0, 256, (2, 3, 24, 24), generator=torch.Generator().manual_seed(0)).byte()
    space, left_out = space_of(ImageBatch(pixels, np.array([0, 1])))
    assert not left_out and space.mixings == (Mixup, CutMix, ResizeMix)
    assert {"Rotate", "ShearX", "Flip", "Jpeg"} <= set(space.names)
    for from_strength in space.operations.values():
        changed = from_strength(magnitude)(ImageBatch(pixels), generators(0, range(2), 0)).pixels
        assert changed.shape == pixels.shape and changed.dtype == torch.uint8
    assert space.operations["Rotate"](0.4) == Rotate(12.0, draw="ends", interpolation="nearest")


def test_the_operations_are_those_of_torchvisions_randaugment() -> None:
    assert RAND_AUGMENT.keys() | {"Identity"} == v2.RandAugment._AUGMENTATION_SPACE.keys()


@pytest.mark.parametrize("kind", RAND_AUGMENT)
def test_strengths_are_torchvisions_magnitudes(kind: typing.Any) -> None:
    """The same pixels, one way or the other."""
    theirs: typing.Any = v2.RandAugment()
    image_CHW = torch.from_numpy(np.random.default_rng(2).integers(3, 250, (3, 40, 60), dtype=np.uint8))
    magnitudes_of, signed = theirs._AUGMENTATION_SPACE[kind]
    magnitudes = magnitudes_of(31, *image_CHW.shape[1:])
    for step in (1, 10, 30):
        magnitude = 0.0 if magnitudes is None else float(magnitudes[step])
        expected = [
            theirs._apply_image_or_video_transform(image_CHW, kind, m, InterpolationMode.NEAREST, {torch.Tensor: None})
            for m in ((magnitude, -magnitude) if signed else (magnitude,))
        ]
        batch = ImageBatch(image_CHW.expand(24, -1, -1, -1))
        actual = RAND_AUGMENT[kind](step / 30)(batch, generators(0, range(24), 0)).pixels
        assert len({view.numpy().tobytes() for view in actual}) == len({e.numpy().tobytes() for e in expected})
        # float32 there and float64 here: a few pixels fall the other way.
        assert all(min(_apart(view, e) for e in expected) < 0.01 for view in actual), step


def _apart(first: torch.Tensor, second: torch.Tensor) -> float:
    """Share of the values that are more than a gray level apart."""
    return float(((first.int() - second.int()).abs() > 1).float().mean())


@pytest.mark.parametrize("kind", RAND_AUGMENT)
def test_more_strength_changes_more(kind: str) -> None:
    """What searches over strengths go by."""
    spots = np.random.default_rng(1).integers(5, 250, (20, 3, 6, 6)).repeat(8, 2).repeat(8, 3)
    batch = ImageBatch(torch.from_numpy(spots.astype(np.uint8)))

    def change(strength: float) -> float:
        after = RAND_AUGMENT[kind](strength)(batch, generators(0, range(20), 0)).pixels
        return float((after.float() - batch.pixels.float()).abs().mean())

    weak, middle, strong = change(0.2), change(0.6), change(1.0)
    assert 0 < weak <= middle <= strong
    assert kind in ("AutoContrast", "Equalize") or weak < strong


def test_numbers_of_a_policy_are_rounded() -> None:
    at = IMAGE_OPERATIONS
    assert at["Brightness"](0.2).brightness == 0.18
    assert at["TranslateX"](0.2).x == pytest.approx(0.2 * 150 / 331, abs=1e-6) == round(at["TranslateX"](0.2).x, 6)


def test_policy_as_text() -> None:
    policy = Policy(((Move("Swap", 1.0, 0.2), Move("Delete", 0.6, 0.4)), (Move("Swap", 1.0, 1.0),)))
    assert str(policy) == "Swap 0.2, Delete 0.4 x 0.6 | Swap 1"
    assert str(NONE) == "none"
    many = Space({name: SwapWords for name in "ABCDEF"})
    assert str(many.rand_augment(0.4, 2)) == "2 of all operations at 0.4"
    assert str(many.trivial_augment()) == "1 of all operations at 0.2 to 1"
