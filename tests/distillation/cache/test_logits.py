"""Cached logits are exact up to a number of classes, and the most likely ones beyond; a killed run loses one chunk."""

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
    """Returns rows of `LOGITS`, or fails at a chunk."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.computed: list[int] = []
        self.fails_at = fails_at

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        if int(numbers[0]) == self.fails_at:
            raise KeyboardInterrupt
        self.computed += numbers.tolist()
        return LOGITS[numbers]


def load(compute: Compute, *, budget_gb: float = 1.0, **parts: str) -> tuple[CachedLogits, bool]:
    return LogitCache("a", 3, 5, (2, 0, 1)).load(parts, 23, compute, split="train", budget_gb=budget_gb)


def test_rows_of_all_chunks_are_read_in_any_order() -> None:
    """Chunks are memory-mapped, and classes come in the requested order."""
    first, is_cached = load(Compute())
    again, is_cached_again = load(idle := Compute())
    assert (is_cached, is_cached_again, idle.computed) == (False, True, [])
    rows = RNG.permutation(23)
    for logits in (first, again):
        assert len(logits) == 23 and np.array_equal(logits[rows], LOGITS[rows][:, [2, 0, 1]])
        assert all(isinstance(chunk, np.memmap) for chunk in logits.chunks) and len(logits.chunks) == 5
    assert load(Compute(), weights="others")[1] is False
    assert (
        np.array_equal(EnsembleLogits([first, again])[rows], mean_logits([first[rows]] * 2))
        and len(EnsembleLogits([again])) == 23
    )


def test_a_killed_run_loses_a_chunk_at_most(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of three written chunks one is damaged. It and the missing ones are computed, with the same result as one run."""
    complete, _ = load(Compute(), weights="whole")
    with pytest.raises(KeyboardInterrupt):
        load(killed := Compute(fails_at=15))
    assert killed.computed == list(range(15))
    (unfinished,) = cache.glob(f"{disk_cache.UNFINISHED}*")
    assert sorted(f.name for f in unfinished.iterdir()) == ["00000.npy", "00001.npy", "00002.npy"]
    (unfinished / "00001.npy").write_bytes((unfinished / "00001.npy").read_bytes()[:-4])
    with caplog.at_level("INFO"):
        first, is_cached = load(second := Compute())
    assert second.computed == [*range(5, 10), *range(15, 23)] and not is_cached
    assert "2 of 5 parts found in" in caplog.text
    assert np.array_equal(first[np.arange(23)], complete[np.arange(23)])
    assert load(third := Compute())[1] and third.computed == [] and not list(cache.glob(f"{disk_cache.UNFINISHED}*"))


def test_logits_are_the_same_without_room(cache: Path) -> None:
    first, is_cached = load(computing := Compute(), budget_gb=1e-9)
    assert not is_cached and computing.computed == list(range(23)) and not list(cache.glob("*"))
    assert np.array_equal(first[np.arange(23)], LOGITS[:, [2, 0, 1]])


def test_most_likely_of_many_classes() -> None:
    """Probabilities are within 5e-4 if the rest is even, and the predicted class stays, even if two are nearly equal."""
    classes = MANY + 500
    logits = np.full((40, classes), -3.0, dtype=np.float32)
    for row in logits:
        row[RNG.permutation(classes)[: TOP - 1]] = RNG.normal(scale=4.0, size=TOP - 1)
    logits[0, 40] = logits[0].max() + 3
    logits[0, 700] = np.nextafter(logits[0, 40], np.float32(np.inf))
    logits[1], logits[1, 900] = -900.0, 0.0
    small = pack(logits)
    assert small.nbytes == 40 * (2 * (TOP + 1) + 2 * TOP) and pack(LOGITS) is LOGITS
    unpacked = unpack(small, classes)
    assert unpacked.dtype == np.float32 and np.isfinite(unpacked).all()
    assert np.abs(softmax(unpacked) - softmax(logits)).max() < 5e-4
    assert np.array_equal(unpacked.argmax(-1), logits.argmax(-1)) and unpacked[0].argmax() == 700
    # Hardly any likelier than the mean of the rest, below which half precision rounds it.
    uniform = np.zeros((1, 600), dtype=np.float32)
    uniform[0, 550] = 1e-6
    assert unpack(pack(uniform), 600).argmax(-1) == 550
    wide = RNG.normal(size=(5, classes)).astype(np.float32)
    left = np.sort(softmax(wide), axis=1)[:, :-TOP].sum(axis=1)
    even = np.sort(softmax(unpack(pack(wide), classes)), axis=1)[:, :-TOP]
    assert np.allclose(even.sum(axis=1), left, atol=1e-3) and np.allclose(even, even[:, :1])
