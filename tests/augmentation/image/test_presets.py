"""The published policies, beside torchvision's."""

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import AutoAugmentPolicy, v2

from hf_finetune.augmentation.image.base import ByTorchvision
from hf_finetune.augmentation.image.presets import AugMix, AutoAugment, RandAugment, ThreeAugment, TrivialAugment
from hf_finetune.augmentation.operations import ImageBatch, generators

GRAY = [128.0] * 3
PRESETS: list[tuple[ByTorchvision, v2.Transform]] = [
    (AutoAugment(), v2.AutoAugment()),
    (AutoAugment("svhn", fill=128), v2.AutoAugment(AutoAugmentPolicy.SVHN, fill=GRAY)),
    (RandAugment(), v2.RandAugment()),
    (RandAugment(3, 20, fill=128), v2.RandAugment(3, 20, fill=GRAY)),
    (TrivialAugment(fill=128), v2.TrivialAugmentWide(fill=GRAY)),
    (AugMix(), v2.AugMix()),
    (AugMix(3, 2, 4, 0.5, all_operations=False), v2.AugMix(3, 2, 4, 0.5, all_ops=False)),
]


@pytest.fixture(scope="module")
def image_CHW() -> torch.Tensor:
    """Wider than the 32 pixels that TrivialAugment moves at most."""
    r = np.random.default_rng(2)
    return torch.from_numpy(r.integers(3, 250, (3, 40, 60), dtype=np.uint8))


@pytest.mark.parametrize(("ours", "theirs"), PRESETS, ids=lambda v: type(v).__name__)
def test_a_view_is_the_transform_of_torchvision_seeded_by_its_row(
    ours: ByTorchvision, theirs: v2.Transform, image_CHW: torch.Tensor
) -> None:
    views = ours(ImageBatch(image_CHW.expand(12, -1, -1, -1)), generators(3, range(12), 1)).pixels
    for view, r in zip(views, generators(3, range(12), 1), strict=True):
        r.random()  # against p
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(r.integers(2**63)))
            assert torch.equal(view, theirs(image_CHW))
    assert len({view.numpy().tobytes() for view in views}) > 3


@pytest.mark.parametrize("preset", [ours for ours, _ in PRESETS], ids=lambda v: type(v).__name__)
def test_presets_neither_read_nor_move_the_generator_of_the_process(
    preset: ByTorchvision, image_CHW: torch.Tensor
) -> None:
    batch = ImageBatch(image_CHW.expand(4, -1, -1, -1))
    views = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            expected = torch.rand(3)
            torch.manual_seed(seed)
            views.append(preset(batch, generators(0, range(4), 0)).pixels)
            assert torch.equal(torch.rand(3), expected)
    assert torch.equal(*views)


@pytest.mark.parametrize("m", [0.0, 4.5, 9.0, 29.999, 30.0])
def test_randaugment_at_a_magnitude_between_two_steps(m: float) -> None:
    theirs: Any = RandAugment(m=m).transform(None)
    shears, _ = theirs._AUGMENTATION_SPACE["ShearX"]
    assert float(shears(theirs.num_magnitude_bins, 1, 1)[theirs.magnitude]) == pytest.approx(0.3 * m / 30)


def test_three_augment_is_one_of_three(image_CHW: torch.Tensor) -> None:
    count = 600
    batch = ImageBatch(image_CHW.expand(count, -1, -1, -1))
    after = ThreeAugment(color_jitter=0.0)(batch, generators(0, range(count), 0)).pixels.float()
    greys = (after.amax(1) - after.amin(1)).amax((1, 2)) == 0
    # White noise: one that is solarised has no value of 128 or above, a blurred one neither end.
    solarised = ~greys & (after.amax((1, 2, 3)) < 128)
    for share in (float(greys.float().mean()), float(solarised.float().mean())):
        assert abs(share - 1 / 3) < 0.08, "four standard deviations"
