"""bfloat16 with rescoring: the labels of float32, and a correct report of the differences."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.checkpoints import load_classifier, load_image_processor, load_tokenizer
from helpers.small_runs import image_rows, text_rows
from helpers.tiny import IMAGE_FAMILIES, TEXT_FAMILIES, tiny_image_checkpoint, tiny_text_checkpoint
from torch import nn

from hf_finetune.data.inputs import ImageInputs, Rows, TextInputs, columns_of
from hf_finetune.evaluation.half_precision import HalfPrecision, half_copy
from hf_finetune.evaluation.logits import predict_logits
from hf_finetune.evaluation.metrics import softmax


class Near(nn.Module):
    """Two logits, the row number and zero; in bfloat16 the first has a fixed error."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.weight, self.error, self.seen = nn.Parameter(torch.ones(())), error, []

    def __deepcopy__(self, memo: dict) -> "Near":
        other = type(self)(self.error)
        other.weight = copy.deepcopy(self.weight, memo)
        return other

    def forward(self, number: torch.Tensor) -> SimpleNamespace:
        half = self.weight.dtype == torch.bfloat16
        self.seen += [] if half else number.tolist()
        number = number.double()
        first = number + (self.error * (number.abs() % 3 - 1) if half else 0)
        return SimpleNamespace(logits=torch.stack([first, torch.zeros_like(first)], -1))


class Numbers(torch.utils.data.Dataset):
    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> float:
        return self.numbers[index]


def collate(numbers: list[float]) -> dict[str, torch.Tensor]:
    # Whole thousandths, so that they pass through unchanged whatever the format of the inputs.
    return {"number": (torch.tensor(np.array(numbers)) * 1000).round().long()}


@pytest.mark.parametrize("rescore", [True, False])
def test_rows_in_doubt_are_computed_in_float32(rescore: bool) -> None:
    """Errors of up to 0.04 flip rows with smaller margins; rows with margins up to twice that are rescored."""
    numbers = np.random.default_rng(0).permutation(np.arange(-1000, 1000)) / 1000
    model = Near(40.0)
    scorer = HalfPrecision(model, collate, batch_size=64, tokens=None, rescore=rescore)
    logits = scorer.logits(Numbers(numbers), None)
    expected = np.stack([np.round(numbers * 1000), np.zeros(2000)], -1)
    again = {int(n) for n in model.seen}
    report = scorer.report()
    if rescore:
        assert (logits.argmax(-1) == expected.argmax(-1)).all()
        assert {n for n in range(-39, 40)} <= again and len([n for n in again if abs(n) > 120]) <= 64
        assert np.array_equal(
            logits[[int(n) in again for n in expected[:, 0]]], expected[[int(n) in again for n in expected[:, 0]]]
        )
        assert report["rows_compared"] == len(again) and report["rows_in_float32"] == len(again) - 64
    else:
        assert (logits.argmax(-1) != expected.argmax(-1)).any()
        assert len(again) == 256 == report["rows_compared"] and report["rows_in_float32"] == 0
    assert report["rows"] == 2000 and report["format"] == "bf16"


def test_what_is_said_of_the_difference_is_true() -> None:
    model = Near(40.0)
    scorer = HalfPrecision(model, collate, batch_size=64, tokens=None, rescore=False)
    numbers = np.arange(-20, 20) / 1000
    logits = scorer.logits(Numbers(numbers), None)
    exact = np.stack([np.round(numbers * 1000), np.zeros(40)], -1)
    report = scorer.report()
    assert np.array_equal(logits, exact), "all were compared, so all are float32's"
    half = predict_logits(scorer.half, Numbers(numbers), collate)
    assert report["label_agreement"] == (half.argmax(-1) == exact.argmax(-1)).mean() < 1
    assert (
        report["largest_probability_difference"] == round(float(np.abs(softmax(half) - softmax(exact)).max()), 4) > 0.5
    )
    later = scorer.logits(Numbers(numbers), None)
    assert np.array_equal(later, half) and scorer.report()["rows"] == 80 and scorer.report()["rows_compared"] == 40


def test_one_class_is_never_in_doubt() -> None:
    class One(Near):
        def forward(self, number: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=super().forward(number).logits[:, :1])

    scorer = HalfPrecision(One(1.0), collate, batch_size=8, tokens=None, rescore=True)
    assert scorer.logits(Numbers(np.arange(9) / 1000), None).shape == (9, 1)


@pytest.mark.parametrize("family", [*TEXT_FAMILIES, *IMAGE_FAMILIES])
def test_every_family(tmp_path, family: str) -> None:
    """The bfloat16 logits of each family equal those of float32 up to rounding; the model is unchanged."""
    if family in IMAGE_FAMILIES:
        folder, task = str(tiny_image_checkpoint(tmp_path, family)), "image-classification"
        inputs, rows = ImageInputs(load_image_processor(folder)), image_rows(12)
    else:
        folder, task = str(tiny_text_checkpoint(tmp_path, family)), "text-classification"
        inputs, rows = TextInputs(load_tokenizer(folder, max_length=32, sample=[]), 32), text_rows(12)
    model = load_classifier(folder, task=task, labels=("no", "yes"), seed=0).model.eval()
    encoded = inputs.encode(rows)
    batches, lengths = Rows(encoded, columns_of(inputs, labels=False)), inputs.lengths(encoded)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    exact = predict_logits(model, batches, inputs.collate, lengths=lengths)
    half = half_copy(model)
    assert (half is None) == (family in ("resnet", "efficientnet"))
    scorer = HalfPrecision(model, inputs.collate, batch_size=None, tokens=64, rescore=False)
    scorer.compared = 1  # as if after the first part
    logits = scorer.logits(batches, lengths)
    # 8 bits of mantissa through three layers of random weights; a wrong copy is off by the logits' own size.
    assert np.abs(logits - exact).max() < 0.12 * np.abs(exact).max() + 0.02
    assert not np.array_equal(logits, exact), "this was float32"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())


def test_tags_near_their_threshold_are_computed_in_float32() -> None:
    """The tag of the row number is predicted from 20 on, the other one, always 0, never: logits below 20 + 80 doubt."""
    numbers = np.random.default_rng(0).permutation(np.arange(-1000, 1000)) / 1000
    model = Near(40.0)
    cuts = np.array([20.0, 1e6])
    scorer = HalfPrecision(model, collate, batch_size=64, tokens=None, rescore=True, cuts_C=cuts)
    logits, expected = scorer.logits(Numbers(numbers), None), np.round(numbers * 1000)
    again = {int(n) for n in model.seen}
    assert ((logits[:, 0] >= 20) == (expected >= 20)).all()
    assert {*range(-19, 60)} <= again and len([n for n in again if abs(n - 20) > 120]) <= 64
