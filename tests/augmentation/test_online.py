"""Training rows as augmentation shows them: by row and epoch, the same whoever asks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.small_runs import image_rows, text_rows
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint
from transformers import AutoImageProcessor

from hf_finetune.augmentation.augmenter import Augmenter, population_of
from hf_finetune.augmentation.compose import Phases, Sequence
from hf_finetune.augmentation.image.operations import Flip, ResizedCrop
from hf_finetune.augmentation.offline import with_copies, without_scored
from hf_finetune.augmentation.online import AugmentedRows, TwoViews
from hf_finetune.augmentation.operations import TextBatch, generators
from hf_finetune.augmentation.text.operations import ChangeCase, SwapWords
from hf_finetune.data.batching import EpochLoader, Progress, StepBatches
from hf_finetune.data.duplicates import first_sources
from hf_finetune.data.inputs import ImageInputs, Rows, TextInputs, columns_of
from hf_finetune.errors import InputError
from hf_finetune.models.processors import load_image_processor, load_tokenizer

ROWS = 12


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> TextInputs:
    checkpoint = str(tiny_text_checkpoint(tmp_path_factory.mktemp("text") / "bert"))
    return TextInputs(load_tokenizer(checkpoint, max_length=32, sample=["good"]), 32)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> ImageInputs:
    return ImageInputs(
        load_image_processor(str(tiny_image_checkpoint(tmp_path_factory.mktemp("image") / "vit", "vit")))
    )


def augmentation(rows, *operations) -> Augmenter:
    return Augmenter(operations, 0, population_of(rows, ("bad", "good")))


def test_views_change_with_the_epoch_and_are_what_the_operation_gives(texts: TextInputs) -> None:
    rows = text_rows(ROWS)
    views = AugmentedRows(texts.encode(rows), texts, augmentation(rows, SwapWords(0.5)))
    for epoch in range(2):
        views.set_epoch(epoch)
        expected = SwapWords(0.5)(TextBatch(rows["text"][:]), generators(0, range(ROWS), epoch)).texts
        assert views.__getitems__(range(ROWS))["input_ids"] == texts.encode_batch({"text": expected})["input_ids"]
        assert views[3]["input_ids"] == texts.encode_batch({"text": expected[3:4]})["input_ids"][0], "batch mates"
        assert views.__getitems__(range(ROWS))["label"] == rows["label"][:]
    assert expected != rows["text"][:]


def test_a_row_that_is_drawn_several_times_has_another_view_each_time(texts: TextInputs) -> None:
    rows = text_rows(ROWS)
    views = AugmentedRows(texts.encode(rows), texts, augmentation(rows, SwapWords(0.5)))
    views.set_epoch(2)
    found = views.changed([3, 3 + ROWS, 5 + 2 * ROWS])["text"]
    raw = TextBatch(rows["text"][:])
    seen = [SwapWords(0.5)(raw, generators(0, range(ROWS), 2, view)).texts for view in range(3)]
    assert found == [seen[0][3], seen[1][3], seen[2][5]] and found[0] != found[1]


def test_a_row_that_is_drawn_again_is_in_the_phase_of_that_step(texts: TextInputs) -> None:
    rows, over = text_rows(ROWS), {3: 0.0, 3 + ROWS: 0.75, 3 + 2 * ROWS: 0.25}
    known = augmentation(rows, Phases((ChangeCase(1.0, to="upper"), Sequence(()))))
    known = replace(known, progress=lambda _, numbers: np.array([over[number] for number in numbers.tolist()]))
    text = rows["text"][3]
    assert AugmentedRows(texts.encode(rows), texts, known).changed(list(over))["text"] == [
        text.upper(),
        text,
        text.upper(),
    ]


def test_two_processes_see_what_one_sees(texts: TextInputs) -> None:
    """Each its own rows; a row's view is the same wherever it is."""
    rows = text_rows(ROWS)
    encoded = texts.encode(rows)

    def seen(process: int, processes: int) -> list[tuple[int, ...]]:
        views = AugmentedRows(encoded, texts, augmentation(rows, SwapWords(0.5)))
        sampler = StepBatches(ROWS, rows_per_step=4, process=process, processes=processes)
        loader = EpochLoader(views, batch_sampler=sampler, collate_fn=lambda batch: batch["input_ids"])
        loader.set_epoch(3)
        return [tuple(ids) for batch in loader for ids in batch]

    first, second = seen(0, 2), seen(1, 2)
    assert len(first) == len(second) == ROWS // 2
    assert sorted(first + second) == sorted(seen(0, 1))


def test_two_views_are_others_in_every_epoch(pictures: ImageInputs) -> None:
    """By the loader, which tells rows of every kind which epoch comes."""

    def seen(epoch: int) -> torch.Tensor:
        # Of one row, so that nothing but its views can differ.
        views = TwoViews(image_rows(1), pictures, (ResizedCrop(),), seed=0)
        sampler = StepBatches(1, rows_per_step=1)
        loader = EpochLoader(views, batch_sampler=sampler, collate_fn=lambda batch: batch["pixels"])
        loader.set_epoch(epoch)
        return next(iter(loader))

    first, *others = (seen(epoch) for epoch in range(3))
    assert torch.equal(first, seen(0)) and not any(torch.equal(first, other) for other in others)


def test_pictures_are_changed_before_they_are_normalised(pictures: ImageInputs) -> None:
    rows = image_rows(6)
    views = AugmentedRows(pictures.encode(rows), pictures, augmentation(rows, Flip(p=1.0)))
    changed = pictures.collate(views.__getitems__(range(6)))["pixel_values"]
    plain = pictures.collate(Rows(rows, columns_of(pictures, labels=False)).__getitems__(range(6)))["pixel_values"]
    assert not torch.equal(changed, plain)
    torch.testing.assert_close(changed, plain.flip(-1), rtol=0, atol=1e-6)


def test_copies_of_texts_stand_behind_the_rows(texts: TextInputs) -> None:
    rows = text_rows(ROWS)
    copied = with_copies(rows, texts, augmentation(rows, SwapWords(0.5)), 2)
    assert len(copied) == 3 * ROWS and copied.features == rows.features
    assert copied["text"][:ROWS] == rows["text"][:] and copied["label"][:] == rows["label"][:] * 3
    for view in (1, 2):
        expected = SwapWords(0.5)(TextBatch(rows["text"][:]), generators(0, range(ROWS), 0, view)).texts
        assert copied["text"][view * ROWS : (view + 1) * ROWS] == expected
    assert copied["text"][ROWS : 2 * ROWS] != copied["text"][2 * ROWS :]
    assert first_sources(copied).tolist() == [*range(ROWS)] * 3


def test_copies_that_equal_a_scored_row_are_left_out(texts: TextInputs) -> None:
    """Two copies become rows that are scored; a training row that is one itself stays, as it would without copies."""
    rows = text_rows(ROWS)
    copied = with_copies(rows, texts, augmentation(rows, SwapWords(0.5)), 1)
    third, last = copied["text"][ROWS + 2], copied["text"][2 * ROWS - 1]
    scored = [Dataset.from_dict({"text": [rows["text"][0], third]}), Dataset.from_dict({"text": [last]})]
    assert len({*rows["text"][:2], third, last}) == 4 and copied["text"][ROWS] != rows["text"][0]
    left = without_scored(copied, ROWS, scored)
    assert left["text"][:] == [t for i, t in enumerate(copied["text"][:]) if i not in (ROWS + 2, 2 * ROWS - 1)]


def test_copies_of_pictures_are_the_changed_pixels(pictures: ImageInputs) -> None:
    rows = image_rows(4)
    copied = with_copies(rows, pictures, augmentation(rows, Flip(p=1.0)), 1)
    pixels = pictures.pixels(copied["image"][:])
    assert torch.equal(pixels[4:], pixels[:4].flip(-1)) and not torch.equal(pixels[4:], pixels[:4])
    assert np.array_equal(copied["row"][:], [0, 1, 2, 3] * 2), "a copy has the number of its row"
    assert first_sources(copied, by_content=False).tolist() == [0, 1, 2, 3] * 2
    assert pictures.encode(copied)["image"][:] == copied["image"][:], "nothing is decoded again"


def test_a_processor_that_crops_does_not_crop_a_copy_again(tmp_path: Path) -> None:
    processor = AutoImageProcessor.from_pretrained(
        tiny_image_checkpoint(tmp_path / "vit", "vit"), size={"shortest_edge": 40}, do_center_crop=True, crop_size=32
    )
    rows, inputs = image_rows(4), ImageInputs(processor)
    copied = with_copies(rows, inputs, augmentation(rows, Flip(p=0.0)), 2)
    pixels = inputs.pixels(copied["image"][:])
    assert torch.equal(pixels[4:8], pixels[:4]) and torch.equal(pixels[8:], pixels[:4])


def test_copies_without_room_are_refused(pictures: ImageInputs) -> None:
    rows = image_rows(4)
    with pytest.raises(InputError, match=r"data.augment_copies: expected 0, .* room for 1 copies: .*"):
        with_copies(rows, replace(pictures, cache_gb=1e-6), augmentation(rows, Flip()), 1)


def test_pictures_of_phases_are_known_by_the_training_too(pictures: ImageInputs) -> None:
    """An epoch of a longer training is in another phase: answers to its views are not those of a shorter one."""
    rows = image_rows(ROWS)

    def identity(steps: int) -> dict:
        known = augmentation(rows, Phases((Flip(), Flip(p=0.0))))
        batches = StepBatches(ROWS, rows_per_step=4)
        return AugmentedRows(
            pictures.encode(rows), pictures, replace(known, progress=Progress(batches, steps))
        ).identity

    assert identity(6) == identity(6) != identity(60)
