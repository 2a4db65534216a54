"""Views of rows that are labelled or scored: by place in the source and number of the view, whoever asks."""

import json
from dataclasses import dataclass

import pytest
import torch
from helpers.small_runs import image_rows, text_rows
from transformers import ViTImageProcessor

from hf_finetune.augmentation.compose import Augmentation, Compose, OneOf, Phases, Sometimes
from hf_finetune.augmentation.generative.back_translation import BackTranslate
from hf_finetune.augmentation.generative.masked_lm import SubstituteByModel
from hf_finetune.augmentation.image.geometry import Flip
from hf_finetune.augmentation.operations import ImageBatch, Rng, TextBatch, generators
from hf_finetune.augmentation.test_time import SeveralViews
from hf_finetune.augmentation.text.sentences import MixHalves
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.data.inputs import ImageInputs
from hf_finetune.errors import InputError
from hf_finetune.inference.image_views import ImageView, decode_images
from hf_finetune.utils.config import Operations, validated

PIXELS = torch.arange(6 * 3 * 4 * 4, dtype=torch.uint8).reshape(6, 3, 4, 4)


@dataclass(frozen=True)
class Shout:
    """Says what it was shown."""

    def __call__(self, batch: TextBatch, rng: Rng) -> TextBatch:
        assert batch.labels is None and batch.population is None, "the answer is not to be seen"
        return TextBatch([text.upper() for text in batch.texts], batch.pairs and [p.upper() for p in batch.pairs])


@dataclass(frozen=True)
class Erase:
    """Leaves nothing."""

    def __call__(self, batch: TextBatch, rng: Rng) -> TextBatch:
        return TextBatch(["" for _ in batch.texts], batch.pairs)


def test_a_text_depends_on_its_index_and_view_alone() -> None:
    raw, views = text_rows(20)[:], SeveralViews((SwapWords(0.5),), 4, seed=7)
    for view in (1, 2):
        expected = SwapWords(0.5)(TextBatch(raw["text"]), generators(7, range(20), 0, view)).texts
        assert views.texts(raw, range(20), view) == {"text": expected}
        assert views.texts({"text": raw["text"][12:]}, range(12, 20), view) == {"text": expected[12:]}, "rows beside it"
    assert views.texts(raw, range(20), 1) != views.texts(raw, range(20), 2)
    assert SeveralViews((SwapWords(0.5),), 4, seed=8).texts(raw, range(20), 1) != views.texts(raw, range(20), 1)


def test_pairs_stay_pairs_and_labels_are_hidden() -> None:
    raw = {"text": ["a", "b"], "text_pair": ["c", "d"], "label": [0, 1]}
    assert SeveralViews((Shout(),), 2).texts(raw, [0, 1], 1) == {"text": ["A", "B"], "text_pair": ["C", "D"]}
    assert SeveralViews((Shout(),), 2).texts({"text": ["a", "b"]}, [0, 1], 1) == {"text": ["A", "B"]}


def test_an_image_depends_on_its_index_and_view_alone() -> None:
    places, views = [10, 11, 12, 13, 14, 15], SeveralViews((Flip(0.5),), 3, seed=7)
    expected = Flip(0.5)(ImageBatch(PIXELS), generators(7, places, 0, 2)).pixels
    assert not torch.equal(expected, PIXELS)
    images = ImageView(PIXELS, places, views, 2)
    assert len(images) == 6 and torch.equal(images.__getitems__(range(6))["pixels"], expected)
    assert torch.equal(images.__getitems__([4, 1])["pixels"], expected[[4, 1]])
    assert torch.equal(ImageView(PIXELS, places, views, 0).__getitems__(range(6))["pixels"], PIXELS)


def test_images_are_decoded_before_normalization() -> None:
    inputs, rows = ImageInputs(ViTImageProcessor(size={"height": 16, "width": 16})), image_rows(70)
    pixels = decode_images(inputs, rows["image"][:])
    assert pixels.shape == (70, 3, 16, 16) and pixels.dtype == torch.uint8
    whole = inputs.collate({"image": rows["image"][:]})["pixel_values"]
    assert torch.allclose(inputs.collate({"pixels": pixels})["pixel_values"], whole, rtol=0, atol=1e-6)


def test_a_processor_without_whole_numbers_is_refused() -> None:
    """One that rescales within its resizing has no moment at which the pixels are whole numbers."""

    class Floats(ViTImageProcessor):
        def __call__(self, images, **options):
            actual = super().__call__(images, **options)
            return {"pixel_values": actual["pixel_values"].float()}

    inputs = ImageInputs(Floats(size={"height": 16, "width": 16}))
    with pytest.raises(InputError, match=r"^--augment: expected none .* its Floats gives no 8-bit pixels"):
        decode_images(inputs, image_rows(1)["image"][:])


@pytest.mark.parametrize(
    ("operation", "kind", "message"),
    [
        (Flip(), "text", "^--augment: Flip is not for texts; expected one of .*SwapWords"),
        (Compose((OneOf((SwapWords(), Flip())),)), "text", "^--augment: Flip is not for texts"),
        (SwapWords(), "image", "^--augment: SwapWords is not for images; expected one of .*Flip"),
    ],
)
def test_operations_of_the_other_kind_are_refused(operation, kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SeveralViews((operation,), 2).check(kind)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (MixHalves(), r"MixHalves\(\) needs the training rows"),
        (
            Sometimes(Flip(), by_class="rare"),
            r"Sometimes\(operation=Flip\(.*\), by_class='rare'\) needs the training rows",
        ),
        (Phases((Flip(),)), "Phases is for training"),
        (SubstituteByModel("some/checkpoint"), "SubstituteByModel runs a language model"),
        (Sometimes(OneOf((BackTranslate("a", "b"),))), "BackTranslate runs a language model"),
    ],
)
def test_what_needs_more_than_the_row_is_refused(operation, message: str) -> None:
    with pytest.raises(InputError, match=f"^--augment: {message}"):
        SeveralViews((SwapWords(), Compose((operation,))), 2)


def test_an_operation_on_some_of_the_rows_is_not_refused() -> None:
    raw = text_rows(40)[:]
    changed = SeveralViews((Sometimes(SwapWords(1.0)),), 2).texts(raw, range(40), 1)["text"]
    assert 5 < sum(after != before for after, before in zip(changed, raw["text"], strict=True)) < 35


def test_empty_text_error_names_the_flag() -> None:
    with pytest.raises(InputError, match=r"^--augment: .*Erase\(\) leaves nothing of the text"):
        SeveralViews((Erase(),), 2).texts({"text": ["a word"]}, [0], 1)


def test_to_dict_reproduces_the_views() -> None:
    views = SeveralViews((SwapWords(0.2), OneOf((SwapWords(), Compose((Flip(0.3),))))), 3, seed=5)
    actual = json.loads(json.dumps(views.to_dict()))
    assert actual.keys() == {"number", "augment", "seed"}
    assert (actual["augment"][0]["type"], actual["augment"][0]["p"]) == ("SwapWords", 0.2)
    operations = validated(actual["augment"], Operations[Augmentation], "--augment")
    assert SeveralViews(operations, actual["number"], actual["seed"]) == views
