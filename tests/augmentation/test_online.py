"""Online augmentation: views by row and epoch, the same in whichever batch, process or worker."""

from dataclasses import replace

import numpy as np
import torch
from helpers.small_runs import image_rows, text_rows

from hf_finetune.augmentation.augmenter import Augmenter, population_of
from hf_finetune.augmentation.compose import Compose, Phases
from hf_finetune.augmentation.image.geometry import Flip, ResizedCrop
from hf_finetune.augmentation.online import AugmentedRows, TwoViews
from hf_finetune.augmentation.operations import TextBatch, generators
from hf_finetune.augmentation.text.characters import ChangeCase
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.data.batching import EpochLoader, Progress, StepBatches
from hf_finetune.data.inputs import ImageInputs, Rows, TextInputs, columns_of

ROWS = 12


def augmentation(rows, *operations) -> Augmenter:
    return Augmenter(operations, 0, population_of(rows, ("bad", "good")))


def test_views_change_with_the_epoch(texts: TextInputs) -> None:
    rows = text_rows(ROWS)
    views = AugmentedRows(texts.encode(rows), texts, augmentation(rows, SwapWords(0.5)))
    for epoch in range(2):
        views.set_epoch(epoch)
        expected = SwapWords(0.5)(TextBatch(rows["text"][:]), generators(0, range(ROWS), epoch)).texts
        assert views.__getitems__(range(ROWS))["input_ids"] == texts.encode_batch({"text": expected})["input_ids"]
        assert views[3]["input_ids"] == texts.encode_batch({"text": expected[3:4]})["input_ids"][0], "batch mates"
        assert views.__getitems__(range(ROWS))["label"] == rows["label"][:]
    assert expected != rows["text"][:]


def test_repeated_rows_have_different_views(texts: TextInputs) -> None:
    rows = text_rows(ROWS)
    views = AugmentedRows(texts.encode(rows), texts, augmentation(rows, SwapWords(0.5)))
    views.set_epoch(2)
    actual = views.views([3, 3 + ROWS, 5 + 2 * ROWS])["text"]
    raw = TextBatch(rows["text"][:])
    observed = [SwapWords(0.5)(raw, generators(0, range(ROWS), 2, view)).texts for view in range(3)]
    assert actual == [observed[0][3], observed[1][3], observed[2][5]] and actual[0] != actual[1]


def test_repeated_rows_follow_progress(texts: TextInputs) -> None:
    rows, over = text_rows(ROWS), {3: 0.0, 3 + ROWS: 0.75, 3 + 2 * ROWS: 0.25}
    known = augmentation(rows, Phases((ChangeCase(1.0, to="upper"), Compose(()))))
    known = replace(known, progress=lambda _, numbers: np.array([over[number] for number in numbers.tolist()]))
    text = rows["text"][3]
    assert AugmentedRows(texts.encode(rows), texts, known).views(list(over))["text"] == [
        text.upper(),
        text,
        text.upper(),
    ]


def test_views_do_not_depend_on_the_number_of_processes(texts: TextInputs) -> None:
    """Each its own rows; a row's view is the same wherever it is."""
    rows = text_rows(ROWS)
    encoded = texts.encode(rows)

    def observed(process: int, processes: int) -> list[tuple[int, ...]]:
        views = AugmentedRows(encoded, texts, augmentation(rows, SwapWords(0.5)))
        sampler = StepBatches(ROWS, rows_per_step=4, process=process, processes=processes)
        loader = EpochLoader(views, batch_sampler=sampler, collate_fn=lambda batch: batch["input_ids"])
        loader.set_epoch(3)
        return [tuple(ids) for batch in loader for ids in batch]

    first, second = observed(0, 2), observed(1, 2)
    assert len(first) == len(second) == ROWS // 2
    assert sorted(first + second) == sorted(observed(0, 1))


def test_two_views_change_with_the_epoch(images: ImageInputs) -> None:
    """By the loader, which tells rows of every kind which epoch comes."""

    def observed(epoch: int) -> torch.Tensor:
        # Of one row, so that nothing but its views can differ.
        views = TwoViews(image_rows(1), images, (ResizedCrop(),), seed=0)
        sampler = StepBatches(1, rows_per_step=1)
        loader = EpochLoader(views, batch_sampler=sampler, collate_fn=lambda batch: batch["pixels"])
        loader.set_epoch(epoch)
        return next(iter(loader))

    first, *others = (observed(epoch) for epoch in range(3))
    assert torch.equal(first, observed(0)) and not any(torch.equal(first, other) for other in others)


def test_images_are_augmented_before_normalization(images: ImageInputs) -> None:
    rows = image_rows(6)
    views = AugmentedRows(images.encode(rows), images, augmentation(rows, Flip(p=1.0)))
    changed = images.collate(views.__getitems__(range(6)))["pixel_values"]
    plain = images.collate(Rows(rows, columns_of(images, labels=False)).__getitems__(range(6)))["pixel_values"]
    assert not torch.equal(changed, plain)
    torch.testing.assert_close(changed, plain.flip(-1), rtol=0, atol=1e-6)


def test_identity_of_images_includes_progress(images: ImageInputs) -> None:
    """An epoch of a longer training is in another phase: answers to its views are not those of a shorter one."""
    rows = image_rows(ROWS)

    def identity(steps: int) -> dict:
        known = augmentation(rows, Phases((Flip(), Flip(p=0.0))))
        batches = StepBatches(ROWS, rows_per_step=4)
        return AugmentedRows(images.encode(rows), images, replace(known, progress=Progress(batches, steps))).identity

    assert identity(6) == identity(6) != identity(60)
