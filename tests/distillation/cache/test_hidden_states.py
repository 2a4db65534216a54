"""The cache of hidden states against values by hand."""

import numpy as np
import pytest
import torch

from hf_finetune.distillation.cache.hidden_states import CachedTokens, TokenLayout, cached_tokens
from hf_finetune.distillation.losses.base import Features
from hf_finetune.utils.disk_cache import CacheUnavailable

TOKENS = np.array([2, 1, 3, 1, 2])
"""Tokens of five rows, which are cached in chunks of two rows."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))


def states(rows: np.ndarray) -> np.ndarray:
    """Return 10 r + t and a third of it for token t of row r."""
    firsts = np.concatenate([10.0 * row + np.arange(TOKENS[row]) for row in rows])
    return np.stack([firsts, firsts / 3], -1).astype(np.float16)


def cached(key: dict, compute=states, **fields) -> CachedTokens:
    return cached_tokens(key, TOKENS, compute, **{"values": 2, "size": 2, "budget_gb": 1.0, **fields})


def test_rows_of_several_chunks_are_read_in_any_order() -> None:
    loaded = cached({"a": 1})
    assert len(loaded) == 5 and [len(chunk) for chunk in loaded.chunks] == [3, 4, 2]
    rows = loaded[np.array([4, 1, 2])]
    assert rows.dtype == np.float16
    expected = np.float16([[40, 41, 0], [10, 0, 0], [20, 21, 22]])
    assert np.array_equal(rows[..., 0], expected)
    assert np.array_equal(rows[..., 1], (expected.astype(np.float64) / 3).astype(np.float16))


def test_cached_chunks_are_not_computed_again() -> None:
    def stops(rows: np.ndarray) -> np.ndarray:
        if rows[0] == 4:
            raise KeyboardInterrupt
        return states(rows)

    with pytest.raises(KeyboardInterrupt):
        cached({"a": 1}, stops)
    computed = []
    loaded = cached({"a": 1}, lambda rows: computed.append(rows.tolist()) or states(rows))
    assert computed == [[4]]
    again = cached({"a": 1}, stops)
    assert np.array_equal(again[np.arange(5)], loaded[np.arange(5)])
    with pytest.raises(KeyboardInterrupt):
        cached({"a": 2}, stops)


def test_no_room_and_float16_overflow_are_refused() -> None:
    with pytest.raises(CacheUnavailable, match="cache"):
        cached({"a": 1}, budget_gb=1e-9)
    with pytest.raises(CacheUnavailable, match="larger than 65504"):
        cached({"a": 1}, lambda rows: np.full_like(states(rows), np.inf))
    computed = []
    cached({"a": 1}, lambda rows: computed.append(len(rows)) or states(rows))
    assert computed == [2, 2, 1], "nothing is left of a failed run"


def test_split_undoes_join() -> None:
    layout = TokenLayout((0, 3), (2,), width=4)
    assert layout.values == 20
    drawn = iter(torch.randn(8, 2, 5, 4, generator=torch.Generator().manual_seed(0)))
    mask = torch.ones(2, 5)
    features = Features(
        mask, {n: next(drawn) for n in (0, 1, 3)}, {2: {n: next(drawn) for n in ("query", "key", "value")}}
    )
    joined = layout.join(features)
    assert joined.shape == (2, 5, 20)
    loaded = layout.split(joined, mask)
    assert loaded.hidden.keys() == {0, 3} and loaded.attention.keys() == {2} and loaded.mask_BT is mask
    assert all(torch.equal(loaded.hidden[n], features.hidden[n]) for n in (0, 3))
    assert all(torch.equal(x, features.attention[2][n]) for n, x in loaded.attention[2].items())
