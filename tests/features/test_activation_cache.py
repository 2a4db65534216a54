"""Activations are read as they were written; the disk cache has tests of its own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_finetune.features import activation_cache
from hf_finetune.features.activation_cache import find_activations, store_activations
from hf_finetune.utils import disk_cache
from hf_finetune.utils.hashing import sealed

WIDTH = 3
LENGTHS = [2, 5, 1, 4]


def rows(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Four rows of 2, 5, 1 and 4 tokens; row r has the values r, r + 0.5, ..."""
    return [(r + torch.arange(n * WIDTH) / 2).view(n, WIDTH).to(dtype) for r, n in enumerate(LENGTHS)]


def write(folder: Path, dtype: torch.dtype = torch.float32) -> None:
    made = rows(dtype)
    chunks = [(np.array([2, 0]), [made[2], made[0]]), (np.array([3, 1]), [made[3], made[1]])]
    store_activations(folder, iter(chunks), rows=4, tokens=12, width=WIDTH, dtype=dtype, budget_gb=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_come_back_as_they_were_written(tmp_path: Path, dtype: torch.dtype) -> None:
    write(tmp_path / "activations" / "a", dtype)
    activations = find_activations(tmp_path / "activations" / "a")
    assert [tuple(activations[i].shape) for i in range(4)] == [(n, WIDTH) for n in LENGTHS]
    for i, row in enumerate(rows(dtype)):
        assert activations[i].dtype == dtype and torch.equal(activations[i], row)
    assert activations.size == 12 * WIDTH * dtype.itemsize and activations.lengths_N.tolist() == LENGTHS
    assert (tmp_path / "activations" / "a" / activation_cache.TOKENS).stat().st_size == activations.size


@pytest.mark.parametrize("change", [{"dtype": "int8"}, {"width": None}])
def test_what_the_manifest_says_must_make_sense(tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict) -> None:
    folder = tmp_path / "activations" / "a"
    write(folder)
    (folder / disk_cache.MANIFEST).write_text(json.dumps(sealed({**disk_cache.manifest(folder), **change})))
    assert find_activations(folder) is None and "damaged" in caplog.text
    write(folder)
    assert torch.equal(find_activations(folder)[1], rows()[1])


def test_no_room_computes_nothing(tmp_path: Path) -> None:
    def chunks():
        pytest.fail("computed in vain")
        yield

    with pytest.raises(disk_cache.CacheUnavailable, match=r"batching\.cache_gb allows 0\.00"):
        store_activations(
            tmp_path / "activations" / "a", chunks(), rows=4, tokens=12, width=3, dtype=torch.float32, budget_gb=1e-9
        )
