"""Cached logits: to the bit up to so many classes, the likeliest of more; and what a killed run has computed is not
lost."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hf_finetune.distillation.cache.logits import MANY, TOP, CachedLogits, LogitCache, pack, unpack
from hf_finetune.distillation.predictions import EnsembleLogits, mean_logits
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.utils import disk_cache

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(23, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path))
    return tmp_path / "teacher"


class Compute:
    """Gives rows of `LOGITS`, and dies at a chunk when told to."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.computed: list[int] = []
        self.dies_at = dies_at

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        if int(numbers[0]) == self.dies_at:
            raise KeyboardInterrupt
        self.computed += numbers.tolist()
        return LOGITS[numbers]


def cached(compute: Compute, *, budget_gb: float = 1.0, **parts: str) -> tuple[CachedLogits, bool]:
    logits, is_cached = LogitCache("a", 3, 5).load(parts, 23, compute, split="train", budget_gb=budget_gb)
    return replace(logits, columns_C=(2, 0, 1)), is_cached


def test_rows_of_any_chunk_in_any_order() -> None:
    """Mapped, not read; classes in the order that is asked for."""
    answers, found = cached(Compute())
    again, found_again = cached(nobody := Compute())
    assert (found, found_again, nobody.computed) == (False, True, [])
    rows = RNG.permutation(23)
    for logits in (answers, again):
        assert len(logits) == 23 and np.array_equal(logits[rows], LOGITS[rows][:, [2, 0, 1]])
        assert all(isinstance(chunk, np.memmap) for chunk in logits.chunks) and len(logits.chunks) == 5
    assert cached(Compute(), weights="others")[1] is False
    assert (
        np.array_equal(EnsembleLogits([answers, again])[rows], mean_logits([answers[rows]] * 2))
        and len(EnsembleLogits([again])) == 23
    )


def test_a_killed_run_loses_a_chunk_at_most(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two chunks were there; one of them is damaged. The others are computed, and all together are those of one run."""
    whole, _ = cached(Compute(), weights="whole")
    with pytest.raises(KeyboardInterrupt):
        cached(first := Compute(dies_at=15))
    assert first.computed == list(range(15))
    (unfinished,) = cache.glob(f"{disk_cache.UNFINISHED}*")
    assert sorted(f.name for f in unfinished.iterdir()) == ["00000.npy", "00001.npy", "00002.npy"]
    (unfinished / "00001.npy").write_bytes((unfinished / "00001.npy").read_bytes()[:-4])
    with caplog.at_level("INFO"):
        answers, found = cached(second := Compute())
    assert second.computed == [*range(5, 10), *range(15, 23)] and not found
    assert "2 of 5 parts found in" in caplog.text
    assert np.array_equal(answers[np.arange(23)], whole[np.arange(23)])
    assert cached(third := Compute())[1] and third.computed == [] and not list(cache.glob(f"{disk_cache.UNFINISHED}*"))


def test_without_room_they_are_the_same(cache: Path) -> None:
    answers, found = cached(once := Compute(), budget_gb=1e-9)
    assert not found and once.computed == list(range(23)) and not list(cache.glob("*"))
    assert np.array_equal(answers[np.arange(23)], LOGITS[:, [2, 0, 1]])


def test_the_likeliest_of_many_classes() -> None:
    """Every probability to 5e-4 where the others are even, and the same answer, also where two are as good as equal."""
    classes = MANY + 500
    logits = np.full((40, classes), -3.0, dtype=np.float32)
    for row in logits:
        row[RNG.permutation(classes)[: TOP - 1]] = RNG.normal(scale=4.0, size=TOP - 1)
    logits[0, 40] = logits[0].max() + 3
    logits[0, 700] = np.nextafter(logits[0, 40], np.float32(np.inf))
    logits[1], logits[1, 900] = -900.0, 0.0
    small = pack(logits)
    assert small.nbytes == 40 * (2 * (TOP + 1) + 2 * TOP) and pack(LOGITS) is LOGITS
    found = unpack(small, classes)
    assert found.dtype == np.float32 and np.isfinite(found).all()
    assert np.abs(softmax(found) - softmax(logits)).max() < 5e-4
    assert np.array_equal(found.argmax(-1), logits.argmax(-1)) and found[0].argmax() == 700
    # Hardly any likelier than the mean of the rest, below which half precision rounds it.
    uniform = np.zeros((1, 600), dtype=np.float32)
    uniform[0, 550] = 1e-6
    assert unpack(pack(uniform), 600).argmax(-1) == 550
    wide = RNG.normal(size=(5, classes)).astype(np.float32)
    left = np.sort(softmax(wide), axis=1)[:, :-TOP].sum(axis=1)
    even = np.sort(softmax(unpack(pack(wide), classes)), axis=1)[:, :-TOP]
    assert np.allclose(even.sum(axis=1), left, atol=1e-3) and np.allclose(even, even[:, :1])
