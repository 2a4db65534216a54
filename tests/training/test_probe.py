"""The start-up probe: what it chooses on a clock that is turned by hand, what it leaves untouched, what it
remembers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.tiny import IMAGE_FAMILIES, TEXT_FAMILIES, tiny_image_checkpoint, tiny_text_checkpoint

from hf_finetune.models.kernels.shortcuts import Shortcuts
from hf_finetune.training import precision, probe
from hf_finetune.training.precision import Kernels

EAGER = Kernels(mixed_precision="no", float32_matmul="highest", attention="eager", threads=1)
SDPA = replace(EAGER, attention="sdpa")
MEDIUM = replace(EAGER, float32_matmul="medium")
FREE = frozenset({"mixed_precision", "float32_matmul", "attention"})


def loaded(folder: Path, family: str = "bert", **options):
    make = tiny_image_checkpoint if family in IMAGE_FAMILIES else tiny_text_checkpoint
    task = "image-classification" if family in IMAGE_FAMILIES else "text-classification"
    return load_classifier(make(folder / family, family), task=task, labels=("no", "yes"), **options).model


def text_batch(rows: int = 4, tokens: int = 7) -> dict[str, torch.Tensor]:
    ids = torch.arange(rows * tokens).view(rows, tokens) % 90 + 5
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(rows) % 2}


@pytest.fixture
def bert(tmp_path: Path):
    return loaded(tmp_path)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def measured(bert, monkeypatch: pytest.MonkeyPatch, costs: dict[Kernels, list[float]]):
    """`measure` with steps of 64 rows that take what `costs` lists, over and over; also the kernels of these steps."""
    now, taken = 0.0, []

    def step(_, batch: dict[str, torch.Tensor], kernels: Kernels) -> None:
        nonlocal now
        # A row of the few that come first takes a millisecond.
        now += 0.004 if len(batch["labels"]) == 4 else costs[kernels][taken.count(kernels) % len(costs[kernels])]
        if len(batch["labels"]) != 4:
            taken.append(kernels)

    monkeypatch.setattr(probe.time, "process_time", lambda: now)
    monkeypatch.setattr(probe, "_step", step)
    default, *others = costs
    return probe.measure(bert, text_batch(rows=64), others, default), taken


@pytest.mark.parametrize(
    ("eager", "sdpa", "medium", "chosen"),
    [
        ([0.1], [0.08], [0.1], SDPA),
        ([0.1], [0.07], [0.06], MEDIUM),
        ([0.1], [0.07], [0.068], SDPA),  # not a tenth faster than the best before
        ([0.1], [0.08, 0.08, 0.08, 0.08, 0.08, 0.095], [0.1], EAGER),  # one pair of five says otherwise
        ([0.1, 0.2, 0.1, 0.15], [0.091], [0.1], EAGER),  # a busy machine slows the default down now and then
    ],
)
def test_an_alternative_must_win_every_pair(bert, monkeypatch, eager, sdpa, medium, chosen: Kernels) -> None:
    choice, _ = measured(bert, monkeypatch, {EAGER: eager, SDPA: sdpa, MEDIUM: medium})
    assert choice.kernels == chosen and choice.source == "probe"
    assert [(m["attention"], m["float32_matmul"]) for m in choice.measured] == [
        ("eager", "highest"),
        ("sdpa", "highest"),
        ("eager", "medium"),
    ]


def test_a_loser_takes_one_pair_and_a_winner_five(bert, monkeypatch: pytest.MonkeyPatch) -> None:
    choice, taken = measured(bert, monkeypatch, {EAGER: [0.1], SDPA: [0.3], MEDIUM: [0.08]})
    assert choice.kernels == MEDIUM
    # The first step of each allocates memory and counts for nothing.
    assert (taken.count(SDPA), taken.count(MEDIUM), taken.count(EAGER)) == (2, 6, 7)
    assert [m["ratios"] for m in choice.measured] == [[], [3.0], [0.8] * 5]
    assert [m["ms_per_step"] for m in choice.measured] == [100, 300, 80] and choice.measured[0]["rows"] == 64
    choice, taken = measured(bert, monkeypatch, {EAGER: [30.0], SDPA: [1.0]})
    assert choice.kernels == EAGER and taken == [EAGER, SDPA], "over the limit: undecided"


@pytest.mark.parametrize("family", ["bert", "resnet"])
def test_nothing_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    model = loaded(tmp_path, family).eval()
    images = {"pixel_values": torch.rand(4, 3, 32, 32), "labels": torch.tensor([0, 1, 0, 1])}
    monkeypatch.setattr(precision, "matmul_error", lambda _: 0.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = torch.get_num_threads(), torch.get_float32_matmul_precision(), model.config._attn_implementation
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    default = replace(EAGER, threads=torch.get_num_threads(), attention=model.config._attn_implementation)
    batch = text_batch() if family == "bert" else images
    options = {"default": default, "free": FREE, "planned_steps": 10**9, "method": "full", "shortcuts": Shortcuts()}
    choice = probe.choose(model, batch, **options)
    assert choice.source == "probe" and len(choice.measured) >= 2
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and not model.training
    now = torch.get_num_threads(), torch.get_float32_matmul_precision(), model.config._attn_implementation
    assert now == settings


def test_a_choice_is_kept_and_used_again(bert, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(batch=None, **changes) -> probe.KernelChoice:
        arguments = {"default": EAGER, "free": FREE, "planned_steps": 600, "method": "full"} | changes
        return probe.choose(bert, batch or text_batch(tokens=7), **arguments)

    assert choose(planned_steps=599) == probe.KernelChoice(EAGER) and not own_cache.exists(), "too short to measure"
    result = probe.KernelChoice(SDPA, ({"attention": "eager", "ms_per_step": 1.0},), "probe")
    monkeypatch.setattr(probe, "measure", lambda *_: result)
    assert choose() == result
    monkeypatch.setattr(probe, "measure", lambda *_: pytest.fail("measured again"))
    assert choose() == replace(result, source="cache")
    assert choose(text_batch(tokens=8)) == replace(result, source="cache")
    assert choose(planned_steps=599) == probe.KernelChoice(EAGER), "as before there was a choice"
    assert choose(probe=False) == probe.KernelChoice(EAGER)
    assert choose(free=frozenset()) == probe.KernelChoice(EAGER, source="forced")
    monkeypatch.setattr(probe, "measure", lambda *_: replace(result, kernels=MEDIUM))
    others = ({"method": "lora"}, {"free": frozenset({"attention"})}, {"default": SDPA})
    assert [choose(**other).kernels for other in others] == [MEDIUM] * 3
    assert choose(text_batch(tokens=9)).kernels == choose(text_batch(rows=5)).kernels == MEDIUM
    for damage in ("", "[]", "{}", '{"chosen": {"threads": 1}, "measured": []}'):
        for file in own_cache.rglob("*.json"):
            file.write_text(damage)
        assert choose().source == "probe"


def test_without_a_place_to_keep_the_choice_it_is_the_default(
    bert, own_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each run would measure anew, and one of five otherwise than the others."""
    own_cache.write_text("a file, not a folder")
    monkeypatch.setattr(probe, "measure", lambda *_: probe.KernelChoice(SDPA, (), "probe"))
    result = probe.choose(bert, text_batch(), default=EAGER, free=FREE, planned_steps=600, method="full")
    assert result == probe.KernelChoice(EAGER)
    assert "cannot be kept (Not a directory)" in caplog.text


def test_the_first_of_two_runs_at_once_decides(bert, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run measures otherwise, and writes while this one measures."""

    def choose() -> probe.KernelChoice:
        return probe.choose(bert, text_batch(), default=EAGER, free=FREE, planned_steps=600, method="full")

    def measure(*_: object) -> probe.KernelChoice:
        monkeypatch.setattr(probe, "measure", lambda *_: probe.KernelChoice(MEDIUM, (), "probe"))
        assert choose().kernels == MEDIUM
        return probe.KernelChoice(SDPA, (), "probe")

    monkeypatch.setattr(probe, "measure", measure)
    assert choose() == probe.KernelChoice(MEDIUM, (), "cache") == choose()
    assert [path.suffix for path in (own_cache / "kernels").iterdir()] == [".json"]


def test_alternatives_are_honest(bert, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never bf16 where it is not native; an inexact product never passes as float32; what is forced stays."""
    error = {"medium": 1e-7}
    monkeypatch.setattr(precision, "matmul_error", error.__getitem__)
    monkeypatch.setattr(precision, "has_native_bf16", lambda _: False)
    two = replace(EAGER, threads=2)
    assert probe._alternatives(bert, two, FREE) == [
        replace(two, attention="sdpa"),
        replace(two, float32_matmul="medium"),
    ]
    error["medium"] = 1e-3
    assert probe._alternatives(bert, two, FREE) == [replace(two, attention="sdpa")]
    half = replace(EAGER, mixed_precision="bf16")
    assert probe._alternatives(bert, half, FREE - {"attention"}) == [EAGER]
    error["medium"] = 1e-7
    assert probe._alternatives(bert, half, FREE - {"attention"}) == [MEDIUM]
    assert probe._alternatives(bert, half, frozenset({"float32_matmul"})) == []


@pytest.mark.parametrize("family", [*TEXT_FAMILIES, *IMAGE_FAMILIES])
def test_attention_kernels_of_every_family(tmp_path: Path, family: str) -> None:
    model = loaded(tmp_path, family)
    present = model.config._attn_implementation
    result = precision.attention_kernels(model)
    assert result[0] == present == model.config._attn_implementation
    kernels = {present, "eager", "sdpa"} if model._can_set_attn_implementation() and model._supports_sdpa else {present}
    assert set(result) == kernels
    convolutional = ("convnext", "resnet", "efficientnet", "poolformer")
    assert set(result) >= {"eager", "sdpa"} or family in ("deberta-v2", "mpnet", "swin", *convolutional)


def test_products_are_exact_in_highest_and_settings_come_back() -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    assert 0 < precision.matmul_error("highest") < precision.EXACT
    with precision.settings_restored():
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("medium")
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before
