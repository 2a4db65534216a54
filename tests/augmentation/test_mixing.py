"""Rows mixed with one another: by hand, the same whenever they are made again, and from YAML and flags."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from helpers.checkpoints import load_image_processor
from helpers.small_runs import image_rows
from helpers.tiny import tiny_image_checkpoint

from hf_finetune import Batching, ImageData, InputError, Model, Recipe, Supervised, TextData
from hf_finetune.augmentation.augmenter import Augmenter, population_of
from hf_finetune.augmentation.image.geometry import Flip
from hf_finetune.augmentation.mixing import Batch, CutMix, Mixing, Mixup, ResizeMix
from hf_finetune.augmentation.online import AugmentedRows, MixedRows, collate_mixed
from hf_finetune.cli.train import TrainJob, parse_train
from hf_finetune.config.rules import check
from hf_finetune.data.batching import EpochLoader, StepBatches
from hf_finetune.data.inputs import ImageInputs, Rows, columns_of, with_labels
from hf_finetune.utils.plain import merge, to_plain

OPERATIONS = [Mixup(alpha=1.0), CutMix(), ResizeMix()]
PICTURES = Recipe(name="a", data=ImageData(path="x"), model=Model("m"))
TEXTS = Recipe(name="a", data=TextData(path="x"), model=Model("m"))


class Drawn:
    """In the place of a generator: a share, partners in reverse order, and corners one after another."""

    def __init__(self, share: float, *corners: int) -> None:
        self.share, self.corners = share, list(corners)

    def random(self) -> float:
        return 0.0

    def beta(self, *_: float) -> float:
        return self.share

    def permutation(self, rows: int) -> np.ndarray:
        return np.arange(rows)[::-1].copy()

    def integers(self, high: int) -> int:
        assert self.corners[0] < high
        return self.corners.pop(0)


def flat_pictures(*values: float, side: int = 4) -> Batch:
    """Images of one value each, of classes 0, 1, ..."""
    pixels = torch.tensor(values)[:, None, None, None].expand(-1, 3, side, side).clone()
    return {"pixel_values": pixels, "labels": torch.arange(len(values))}


def mixed_by(operation: Mixing, batch: Batch, drawn: Drawn) -> Batch:
    """The batch after the operation; what came in stays as it was."""
    before = {name: x.clone() for name, x in batch.items()}
    actual = operation(batch, drawn)
    assert batch.keys() == before.keys() and all(torch.equal(batch[n], x) for n, x in before.items())
    assert torch.equal(actual["labels"], batch["labels"])
    return actual


def test_mixup_by_hand() -> None:
    """Three quarters of 0 and a quarter of 8, and the other way round."""
    actual = mixed_by(Mixup(), flat_pictures(0.0, 8.0), Drawn(0.75))
    assert (actual["pixel_values"][0] == 2).all() and (actual["pixel_values"][1] == 6).all()
    assert actual["partners"].tolist() == [1, 0] and actual["shares"].tolist() == [0.75, 0.75]


def test_cut_mix_by_hand() -> None:
    """A quarter of the area is a box of 2 x 2, its middle at row 1, column 3: rows 0 and 1, columns 2 and 3."""
    actual = mixed_by(CutMix(), flat_pictures(0.0, 8.0), Drawn(0.75, 1, 3))
    expected = torch.zeros(4, 4)
    expected[:2, 2:] = 8
    assert torch.equal(actual["pixel_values"][0], expected.expand(3, 4, 4))
    assert torch.equal(actual["pixel_values"][1], 8 - expected.expand(3, 4, 4))
    assert actual["shares"].tolist() == [0.75, 0.75]


def test_cut_mix_share_is_the_area_inside_the_image() -> None:
    """Its middle in the corner, one pixel of the box is inside: the share is 15 of 16."""
    actual = mixed_by(CutMix(), flat_pictures(0.0, 8.0), Drawn(0.75, 0, 0))
    assert actual["pixel_values"][0, 0].sum() == 8 and actual["pixel_values"][0, 0, 0, 0] == 8
    assert actual["shares"].tolist() == [0.9375, 0.9375]


def test_cut_mix_pastes_at_the_same_place() -> None:
    """Of a partner that is not of one value: what lies under the box."""
    batch = flat_pictures(0.0, 0.0)
    batch["pixel_values"][1] = torch.arange(16.0).view(4, 4)
    actual = mixed_by(CutMix(), batch, Drawn(0.75, 2, 3))
    assert actual["pixel_values"][0, 0, 1:3, 2:4].tolist() == [[6, 7], [10, 11]]
    assert actual["pixel_values"][0, 0].sum() == 6 + 7 + 10 + 11


def test_resize_mix_by_hand() -> None:
    """The whole partner, dark above and bright below, in a box of 2 x 2 at row 1, column 2."""
    batch = flat_pictures(-1.0, 0.0, side=4)
    batch["pixel_values"][1, :, 2:] = 8
    actual = mixed_by(ResizeMix(), batch, Drawn(0.75, 1, 2))
    part = torch.nn.functional.interpolate(batch["pixel_values"][1:], (2, 2), mode="bilinear", antialias=True)[0]
    assert part[0, 0, 0] < 2 and part[0, 1, 0] > 6, "both halves are in it"
    expected = -torch.ones(3, 4, 4)
    expected[:, 1:3, 2:4] = part
    assert torch.equal(actual["pixel_values"][0], expected)
    assert actual["shares"].tolist() == [0.75, 0.75]


def test_mixup_of_texts_by_hand() -> None:
    """Masks united; of the token types those of the row with the larger share, and behind its end the other's."""
    batch = {
        "input_ids": torch.tensor([[5, 6, 0, 0], [7, 8, 9, 9]]),
        "token_type_ids": torch.tensor([[0, 1, 0, 0], [0, 0, 1, 1]]),
        "attention_mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]),
        "labels": torch.tensor([0, 1]),
    }
    actual = mixed_by(Mixup(), batch, Drawn(0.75))
    assert torch.equal(actual["input_ids"], batch["input_ids"]) and actual["partners"].tolist() == [1, 0]
    assert actual["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert actual["token_type_ids"].tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]
    actual = mixed_by(Mixup(), batch, Drawn(0.25))
    assert actual["token_type_ids"].tolist() == [[0, 0, 1, 1], [0, 1, 1, 1]]
    whole = mixed_by(Mixup(), batch, Drawn(1.0))
    assert all(torch.equal(whole[name], x) for name, x in batch.items())
    one_length = {name: batch[name] for name in ("input_ids", "labels")}
    assert mixed_by(Mixup(), one_length, Drawn(0.5)).keys() == {"input_ids", "labels", "partners", "shares"}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_contract_of_every_operation(operation: Mixing) -> None:
    """Same shape and type, no more than what was there, the same again; and the same after pickling."""
    rng = torch.Generator().manual_seed(0)
    batch = {"pixel_values": torch.rand(6, 3, 10, 14, generator=rng), "labels": torch.arange(6)}
    for seed in range(20):
        actual = mixed_by(operation, batch, np.random.default_rng(seed))
        again = pickle.loads(pickle.dumps(operation))(batch, np.random.default_rng(seed))
        assert actual.keys() == again.keys() and all(torch.equal(actual[n], again[n]) for n in actual)
        pixels = actual["pixel_values"]
        assert pixels.shape == (6, 3, 10, 14) and pixels.dtype == torch.float32
        assert pixels.min() >= 0 and pixels.max() <= 1
        if "shares" in actual:
            assert 0 <= actual["shares"].min() == actual["shares"].max() <= 1
            assert sorted(actual["partners"].tolist()) == list(range(6))
    assert not torch.equal(pixels, batch["pixel_values"])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_unmixed_batches_are_returned_unchanged(operation: Mixing) -> None:
    """At p 0, at alpha 0, and where a row is alone: the batch itself."""
    batch, rng = flat_pictures(0.0, 8.0), np.random.default_rng(0)
    for off in (dataclasses.replace(operation, p=0.0), dataclasses.replace(operation, alpha=0.0)):
        assert off(batch, rng) is batch
    alone = flat_pictures(3.0)
    assert operation(alone, rng) is alone


@pytest.mark.parametrize("operation", [CutMix(), ResizeMix()])
@pytest.mark.parametrize("share", [1.0, 0.9999])
def test_empty_box_mixes_nothing(operation: Mixing, share: float) -> None:
    batch = flat_pictures(0.0, 8.0)
    assert operation(batch, Drawn(share, 1, 1)) is batch


def test_p_is_the_share_of_batches() -> None:
    rng, batch = np.random.default_rng(0), flat_pictures(0.0, 8.0)
    mixed = sum("shares" in Mixup(p=0.25)(batch, rng) for _ in range(400))
    assert 70 < mixed < 130


@pytest.mark.parametrize("kind", [Mixup, CutMix, ResizeMix])
@pytest.mark.parametrize(("field", "value", "high"), [("alpha", -0.1, 100), ("alpha", 101.0, 100), ("p", 1.5, 1)])
def test_out_of_range(kind: type, field: str, value: float, high: int) -> None:
    with pytest.raises(InputError, match=f"{kind.__name__}.{field}: expected 0 to {high}, got {value}"):
        kind(**{field: value})


# Batches of training rows


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> ImageInputs:
    return ImageInputs(
        load_image_processor(str(tiny_image_checkpoint(tmp_path_factory.mktemp("image") / "vit", "vit")))
    )


def batches(inputs: ImageInputs, epoch: int, *, seed: int = 0, views: bool = False, skipped: int = 0) -> list[Batch]:
    """The batches of 12 rows in three steps, without the first ones as where a run is resumed."""
    encoded = image_rows(12)
    rows = Rows(encoded, columns_of(inputs, labels=True))
    if views:
        rows = AugmentedRows(encoded, inputs, Augmenter((Flip(),), 0, population_of(encoded, ("no", "yes"))))
    loader = EpochLoader(
        MixedRows(rows, seed),
        batch_sampler=StepBatches(12, rows_per_step=4),
        collate_fn=lambda batch: collate_mixed(tuple(OPERATIONS), lambda b: with_labels(inputs.collate, b), batch),
    )
    if skipped:
        loader = skip_first_batches(loader, skipped)
        # All that the Trainer reaches then.
        loader.batch_sampler.batch_sampler.set_epoch(epoch)
    else:
        loader.set_epoch(epoch)
    return list(loader)


def same(one: list[Batch], other: list[Batch]) -> bool:
    return all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("views", [False, True])
def test_batches_depend_on_seed_and_epoch(inputs: ImageInputs, views: bool) -> None:
    first = batches(inputs, 3, views=views)
    assert same(first, batches(inputs, 3, views=views))
    assert same(first[1:], batches(inputs, 3, views=views, skipped=1))
    assert not same(first, batches(inputs, 4, views=views)) and not same(first, batches(inputs, 3, seed=1, views=views))
    assert len({(float(b["shares"][0]), *b["partners"].tolist()) for b in first}) == 3, "each batch has its own"


def test_a_batch_does_not_depend_on_earlier_batches(inputs: ImageInputs) -> None:
    rows = MixedRows(Rows(image_rows(12), columns_of(inputs, labels=True)), seed=5)
    rows.set_epoch(2)
    numbers = [rows.__getitems__([7, 1, 2])["generator"].random() for _ in range(2)]
    assert numbers[0] == numbers[1] == np.random.default_rng((5, 2, 7, 0x6D6978)).random()
    assert rows.__getitems__([1, 7, 2])["generator"].random() != numbers[0]
    assert len(rows) == 12 and rows[3]["label"] == 1


def test_repeated_rows_are_mixed_differently(inputs: ImageInputs) -> None:
    """And is the same row, whose number is another."""
    rows = MixedRows(Rows(image_rows(12), columns_of(inputs, labels=True)), seed=5)
    once, again = rows.__getitems__([7, 2]), rows.__getitems__([7 + 12, 2 + 24])
    assert again["image"] == once["image"] and again["label"] == once["label"] == [1, 0]
    assert again["generator"].random() != once["generator"].random()


def test_every_operation_is_drawn() -> None:
    """Told apart by what they leave of two flat images: one value, or two."""
    drawn = set()
    for seed in range(20):
        batch = {"generator": np.random.default_rng(seed)}
        actual = collate_mixed((Mixup(1.0), CutMix()), lambda _: flat_pictures(0.0, 8.0, side=32), batch)
        drawn.add(len(actual["pixel_values"][0].unique()) == 1)
    assert drawn == {True, False}


# Recipes


@pytest.mark.parametrize("recipe", [PICTURES, TEXTS])
def test_json_round_trip(recipe: Recipe) -> None:
    mix = (Mixup(alpha=0.4), *((CutMix(p=0.5), ResizeMix()) if recipe is PICTURES else ()))
    chosen = dataclasses.replace(recipe, objective=Supervised(mix=mix))
    plain = to_plain(chosen)
    assert plain["objective"]["mix"][0] == {"type": "Mixup", "alpha": 0.4, "p": 1.0}
    assert merge(recipe, plain) == chosen
    check(chosen)


def test_yaml_and_flags(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("objective: {mix: [{type: Mixup, alpha: 0.4}, CutMix]}\n")
    arguments = ["x", "--image", "picture", "--config", str(tmp_path / "mine.yaml")]
    assert parse_train(TrainJob, arguments, "train").recipe.objective.mix == (Mixup(0.4), CutMix())
    output = parse_train(TrainJob, [*arguments, "--objective.mix.0.p", "0.5"], "train").recipe
    assert output.objective.mix == (Mixup(0.4, p=0.5), CutMix())
    output = parse_train(TrainJob, [*arguments, "--objective.mix", "[ResizeMix]"], "train").recipe
    assert output.objective.mix == (ResizeMix(),)
    with pytest.raises(InputError, match=r"objective.mix.0..alpha: expected 0 to 100, got -1"):
        parse_train(TrainJob, [*arguments, "--objective.mix", "[{type: Mixup, alpha: -1}]"], "train")
    with pytest.raises(
        InputError, match=r"objective.mix\[0\].type: expected one of Mixup, CutMix, ResizeMix, got 'Mix'"
    ):
        parse_train(TrainJob, [*arguments, "--objective.mix", "[Mix]"], "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objective": Supervised(mix=(Mixup(), CutMix()))},
            r"objective.mix: expected Mixup for texts.*got .*CutMix",
        ),
        ({"objective": Supervised(mix=(ResizeMix(p=0.5),))}, r"Mixup for texts.*got .*ResizeMix\(p=0.5\)"),
        ({"batching": Batching(unpadded=True)}, "batching.unpadded: expected false or None"),
    ],
)
def test_refused_for_texts(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(dataclasses.replace(TEXTS, **({"objective": Supervised(mix=(Mixup(),))} | changes)))
