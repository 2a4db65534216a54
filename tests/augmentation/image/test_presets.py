"""The published policies, beside torchvision's."""

import itertools
import math
import typing

import numpy as np
import pytest
import torch
from torchvision.transforms import AutoAugmentPolicy, v2
from torchvision.transforms.v2 import InterpolationMode

from hf_finetune.augmentation.image.kernels import weighted_sum
from hf_finetune.augmentation.image.operations import ImageOperation
from hf_finetune.augmentation.image.policies import (
    AUG_MIX,
    KINDS,
    RAND_AUGMENT,
    RANDOM_KINDS,
    TRIVIAL_AUGMENT_WIDE,
    UNGRADED_KINDS,
    Ranges,
    at_magnitude,
    sub_policies,
)
from hf_finetune.augmentation.image.presets import (
    PLAIN_KINDS,
    AugMix,
    AutoAugment,
    RandAugment,
    ThreeAugment,
    TrivialAugment,
)
from hf_finetune.augmentation.operations import ImageBatch, generators


@pytest.fixture(scope="module")
def image_CHW() -> torch.Tensor:
    """Wider than the 32 pixels that TrivialAugment moves at most."""
    r = np.random.default_rng(2)
    return torch.from_numpy(r.integers(3, 250, (3, 40, 60), dtype=np.uint8))


def outcomes(operation: ImageOperation, image_CHW: torch.Tensor, draws: int = 24) -> set[bytes]:
    """All that comes of an image in so many draws."""
    batch = ImageBatch(image_CHW.expand(draws, -1, -1, -1))
    return {each.numpy().tobytes() for each in operation(batch, generators(0, range(draws), 0)).pixels}


@pytest.mark.parametrize("policy", ["imagenet", "cifar10", "svhn"])
def test_autoaugment_has_25_pairs_of_known_operations(policy: str) -> None:
    pairs = sub_policies(policy)
    assert len(pairs) == 25 and {kind for pair in pairs for kind, _, _ in pair} <= KINDS.keys()
    assert sub_policies("imagenet")[0] == (("Posterize", 0.4, 8), ("Rotate", 0.6, 9))


SCALES: list[tuple[typing.Any, Ranges, str, int]] = [
    (v2.AutoAugment(), RAND_AUGMENT, "nearest", 10),
    (v2.RandAugment(), RAND_AUGMENT, "nearest", 31),
    (v2.TrivialAugmentWide(), TRIVIAL_AUGMENT_WIDE, "nearest", 31),
    (v2.AugMix(), AUG_MIX, "bilinear", 10),
]


@pytest.mark.parametrize(
    ("theirs", "strongest", "name", "bins", "kind"),
    [(*scale, kind) for scale in SCALES for kind in scale[0]._AUGMENTATION_SPACE if kind != "Identity"],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_magnitudes_equal_torchvision(
    theirs: typing.Any, strongest: Ranges, name: typing.Any, bins: int, kind: typing.Any, image_CHW: torch.Tensor
) -> None:
    """The same pixels, one way or the other, at several of the published steps."""
    magnitudes_of, signed = theirs._AUGMENTATION_SPACE[kind]
    magnitudes = magnitudes_of(bins, *image_CHW.shape[1:])
    for step in (1, bins // 3, bins - 1):
        ours = at_magnitude(kind, 30 * step / (bins - 1), strongest, interpolation=name)
        magnitude = 0.0 if magnitudes is None else float(magnitudes[step])
        expected = {
            theirs._apply_image_or_video_transform(image_CHW, kind, m, InterpolationMode(name), {torch.Tensor: None})
            .contiguous()
            .numpy()
            .tobytes()
            for m in ((magnitude, -magnitude) if signed else (magnitude,))
        }
        actual = outcomes(ours, image_CHW)
        # float32 there and float64 here: a few pixels fall the other way.
        assert len(actual) == len(expected)
        assert all(min(_apart(f, e) for e in expected) < 0.01 for f in actual), step


def _apart(first: bytes, second: bytes) -> float:
    """Share of the values that are more than a grey level apart."""
    a, b = (np.frombuffer(values, np.uint8).astype(int) for values in (first, second))
    return float(np.mean(np.abs(a - b) > 1))


def test_preset_kinds_equal_torchvision() -> None:
    for theirs in (v2.RandAugment, v2.TrivialAugmentWide):
        assert set(RANDOM_KINDS) == theirs._AUGMENTATION_SPACE.keys()
    assert set(RANDOM_KINDS) - {"Identity"} == v2.AugMix._AUGMENTATION_SPACE.keys()
    assert set(PLAIN_KINDS) == v2.AugMix._PARTIAL_AUGMENTATION_SPACE.keys()


def test_magnitude_zero_changes_nothing_except_augmix_posterize(image_CHW: torch.Tensor) -> None:
    for kind, strongest in itertools.product(KINDS, (RAND_AUGMENT, TRIVIAL_AUGMENT_WIDE)):
        assert outcomes(at_magnitude(kind, 0, strongest), image_CHW, 4) == {image_CHW.numpy().tobytes()}
    assert at_magnitude("Posterize", 0, AUG_MIX).bits == 4
    assert at_magnitude("Posterize", 30, AUG_MIX).bits == 0


@pytest.mark.parametrize("kind", RANDOM_KINDS[1:])
def test_more_magnitude_changes_more(kind: typing.Any) -> None:
    """What searches over magnitudes go by."""
    spots = np.random.default_rng(1).integers(5, 250, (20, 3, 6, 6)).repeat(8, 2).repeat(8, 3)
    batch = ImageBatch(torch.from_numpy(spots.astype(np.uint8)))

    def change(magnitude: float) -> float:
        after = at_magnitude(kind, magnitude)(batch, generators(0, range(20), 0)).pixels
        return float((after.float() - batch.pixels.float()).abs().mean())

    weak, middle, strong = change(6), change(18), change(30)
    assert 0 < weak <= middle <= strong
    assert kind in UNGRADED_KINDS or weak < strong


def test_randaugment_is_n_of_its_operations(image_CHW: torch.Tensor) -> None:
    assert outcomes(RandAugment(n=0), image_CHW, 4) == {image_CHW.numpy().tobytes()}
    singles = set().union(*(outcomes(at_magnitude(kind, 12), image_CHW) for kind in RANDOM_KINDS))
    once = outcomes(RandAugment(1, 12), image_CHW, 300)
    assert once == singles and len(singles) == 23, "nine with two directions, four with none, and nothing"


def test_trivialaugment_is_one_operation_at_any_magnitude(image_CHW: torch.Tensor) -> None:
    singles = set().union(
        *(
            outcomes(at_magnitude(kind, m, TRIVIAL_AUGMENT_WIDE), image_CHW, 12)
            for kind in RANDOM_KINDS
            for m in range(31)
        )
    )
    actual = outcomes(TrivialAugment(), image_CHW, 200)
    assert actual <= singles and len(actual) > 100


@pytest.mark.parametrize("policy", ["imagenet", "cifar10", "svhn"])
def test_autoaugment_share_of_unchanged_images(policy: typing.Any, image_CHW: torch.Tensor) -> None:
    count, pairs = 500, sub_policies(policy)
    batch = ImageBatch(image_CHW.expand(count, -1, -1, -1))
    after = AutoAugment(policy)(batch, generators(3, range(count), 0)).pixels
    same = float((after == batch.pixels).all(3).all(2).all(1).float().mean())
    # Of each pair the chance that neither is done, or is done at level 0.
    alone = [math.prod(1 - p * (level > 0 or kind in UNGRADED_KINDS) for kind, p, level in pair) for pair in pairs]
    expected = sum(alone) / len(alone)
    assert abs(same - expected) < 4 * math.sqrt(expected * (1 - expected) / count)


def test_weighted_sum_by_hand() -> None:
    greys = [torch.full((3, 1, 1), level, dtype=torch.uint8) for level in (100, 200)]
    assert weighted_sum(greys, np.array([0.25, 0.75])).flatten().tolist() == [175, 175, 175]
    # At severity 1 all that is left is four bits and what leaves an even image alone: shares add up to 1.
    even = torch.full((3, 16, 16), 240, dtype=torch.uint8)
    assert outcomes(AugMix(1), even, 40) == {even.numpy().tobytes()}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (AutoAugment("svhn", fill=128), v2.AutoAugment(AutoAugmentPolicy.SVHN, fill=[128.0] * 3)),
        (RandAugment(2, 20), v2.RandAugment(2, 20)),
        (TrivialAugment(), v2.TrivialAugmentWide()),
        (AugMix(5), v2.AugMix(5)),
        (AugMix(3, 2, 4, 0.5, all_operations=False), v2.AugMix(3, 2, 4, 0.5, all_ops=False)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_presets_are_as_strong_as_torchvision(
    ours: ImageOperation, theirs: v2.Transform, image_CHW: torch.Tensor
) -> None:
    """Mean change of a value over many draws, within four standard errors."""
    count = 400
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = torch.stack([theirs(image_CHW) for _ in range(count)])
    actual = ours(ImageBatch(image_CHW.expand(count, -1, -1, -1)), generators(0, range(count), 0)).pixels
    changes = [(c.float() - image_CHW.float()).abs().mean((1, 2, 3)) for c in (actual, expected)]
    error = math.sqrt(sum(float(c.var()) for c in changes) / count)
    assert abs(float(changes[0].mean() - changes[1].mean())) < 4 * error + 0.6, "0.5: rounded here, cut off there"


def test_augmix_is_milder_than_its_chains(image_CHW: torch.Tensor) -> None:
    count = 60
    batch = ImageBatch(image_CHW.expand(count, -1, -1, -1))

    def change(severity: int, alpha: float) -> float:
        after = AugMix(severity, alpha=alpha)(batch, generators(0, range(count), 0)).pixels
        return float((after.float() - batch.pixels.float()).abs().mean())

    assert 0 < change(1, 1.0) < change(5, 1.0) < change(10, 1.0)


def test_three_augment_is_one_of_three(image_CHW: torch.Tensor) -> None:
    count = 600
    batch = ImageBatch(image_CHW.expand(count, -1, -1, -1))
    after = ThreeAugment(color_jitter=0.0)(batch, generators(0, range(count), 0)).pixels.float()
    greys = (after.amax(1) - after.amin(1)).amax((1, 2)) == 0
    # White noise: one that is solarised has no value of 128 or above, a blurred one neither end.
    solarised = ~greys & (after.amax((1, 2, 3)) < 128)
    for share in (float(greys.float().mean()), float(solarised.float().mean())):
        assert abs(share - 1 / 3) < 0.08, "four standard deviations"
