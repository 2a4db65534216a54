"""Whatever byte of a cache entry changes, what is read from it is what was written, or it is computed again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.fuzz import DAMAGES, Damage, fuzzed, paths, replaced, value_at
from hypothesis import given
from hypothesis import strategies as st

from hf_finetune.augmentation.generative.paraphraser import Paraphraser
from hf_finetune.data import image_cache
from hf_finetune.distillation.cache.chunks import ChunkCache
from hf_finetune.distillation.cache.logits import LogitCache
from hf_finetune.features.activation_cache import find_activations, store_activations
from hf_finetune.training import head_cache, probe
from hf_finetune.training.precision import Kernels
from hf_finetune.utils import disk_cache, environment
from hf_finetune.utils.config import configclass
from hf_finetune.utils.disk_cache import entry_folder

NUMBERS = np.arange(48, dtype=np.float32).reshape(12, 4) / 7


def pixels() -> np.ndarray:
    """Decoded images."""
    images = torch.from_numpy((NUMBERS * 7).astype(np.uint8)).reshape(4, 3, 2, 2)
    rows = Dataset.from_dict({"image": [{"bytes": b"x", "path": None}] * 4, "label": [0, 1, 0, 1]})
    rows = image_cache.cache_pixels(rows, [images[:2], images[2:]], {"images": 1}, budget_gb=1.0)
    return image_cache.cached_pixels(rows["image"][:]).numpy()


def activations() -> np.ndarray:
    """Activations of frozen layers, of 5 and 7 tokens."""
    folder, rows = (
        entry_folder("activations", {"rows": 1}),
        [torch.from_numpy(part) for part in (NUMBERS[:5], NUMBERS[5:])],
    )
    if (found := find_activations(folder)) is None:
        store_activations(folder, [([0, 1], rows)], rows=2, tokens=12, width=4, dtype=torch.float32, budget_gb=1.0)
        found = find_activations(folder)
    return np.concatenate([found[0], found[1]])


def teacher_logits() -> np.ndarray:
    """Logits in chunks of five rows."""
    cache = LogitCache("a teacher", classes=4, size=5, columns_C=(0, 1, 2, 3))
    logits, _ = cache.load({"teacher": 1}, 12, lambda rows: NUMBERS[rows], split="train", budget_gb=1.0)
    return logits[np.arange(12)]


def unfinished_chunks() -> np.ndarray:
    """Chunks of a run that was killed, where the entry is not there yet."""
    cache = ChunkCache({"states": 1}, [(5, 4), (7, 4)], NUMBERS.dtype, "states")
    if not environment.cache_folder().exists():
        with pytest.raises(KeyboardInterrupt):
            cache.load(lambda i: NUMBERS[:5] if i == 0 else interrupt(), budget_gb=1.0)
        return NUMBERS
    arrays, _ = cache.load(lambda i: (NUMBERS[:5], NUMBERS[5:])[i], budget_gb=1.0)
    return np.concatenate(arrays)


def interrupt() -> np.ndarray:
    raise KeyboardInterrupt


def fitted_head() -> np.ndarray:
    """A fitted last layer."""
    folder = entry_folder("heads", {"rows": 1})
    if (head := head_cache.read(folder)) is None:
        head = head_cache.FittedHead(torch.from_numpy(NUMBERS), torch.from_numpy(NUMBERS[:, 0]), 0.5)
        head_cache.write(folder, head, budget_gb=1.0)
    return np.concatenate([head.weight_CD.flatten(), head.bias_C, [head.explained]])


@configclass
class Upper:
    """A generative operation without a model."""

    p: float = 1.0

    @property
    def sources(self) -> tuple[()]:
        return ()

    def rewrite(self, texts, seeds, load) -> list[str]:
        return [text.upper() for text in texts]


def paraphrases() -> np.ndarray:
    """Augmented texts."""
    return np.array(Paraphraser(torch.device("cpu"), 1.0)(Upper(p=0.5), ["a film", "a game"], [0, 1]))


def kernels() -> np.ndarray:
    """The choice of the start-up probe, which is measured again where it is damaged."""
    path = environment.cache_folder() / "kernels" / "a.json"
    if (choice := probe._read(path)) is None:
        path.unlink(missing_ok=True)
        measured = ({"attention": "sdpa", "ms_per_step": 12.25, "ratios": [0.5, 0.625]},)
        choice = probe.KernelChoice(Kernels("bf16", "medium", "sdpa", 2), measured, "probe")
        assert probe._write(path, {"rows": 32}, choice)
    return np.array([str(choice.kernels), str(choice.measured)])


KINDS = [pixels, activations, teacher_logits, unfinished_chunks, fitted_head, paraphrases, kernels]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An undamaged cache of each kind."""
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        for kind in KINDS:
            folders[kind.__name__] = tmp_path_factory.mktemp("whole") / "cache"
            patch.setenv("HF_FINETUNE_CACHE", str(folders[kind.__name__]))
            kind()
    return folders


def read_changed(
    whole: dict[str, Path], folder: Path, kind: Callable[[], np.ndarray], change: Callable[[Path], None]
) -> None:
    """Read from a copy of a cache whose files are changed, and compare with what a fresh one gives."""
    shutil.copytree(whole[kind.__name__], folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_FINETUNE_CACHE", str(folder / "cache"))
        patch.setattr(image_cache, "_OPEN", {})
        patch.setattr(disk_cache, "_PINNED", set())
        change(folder / "cache")
        changed = kind()
        patch.setenv("HF_FINETUNE_CACHE", str(folder / "fresh"))
        assert np.array_equal(changed, kind())
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", KINDS)
@fuzzed(6)
@given(file=st.integers(0, 5), damage=DAMAGES)
def test_any_byte_of_an_entry_changed(
    whole: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    kind: Callable[[], np.ndarray],
    file: int,
    damage: Damage,
) -> None:
    def change(cache: Path) -> None:
        files = sorted(path for path in cache.rglob("*") if path.is_file())
        path = files[file % len(files)]
        path.write_bytes(damage(path.read_bytes()))

    read_changed(whole, tmp_path_factory.mktemp("changed"), kind, change)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not unfinished_chunks])
@fuzzed(4)
@given(data=st.data())
def test_any_number_of_a_manifest_changed(
    whole: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    kind: Callable[[], np.ndarray],
    data: st.DataObject,
) -> None:
    """One more or one less: the shape of pixels, the width of activations, the number of threads."""

    def change(cache: Path) -> None:
        (path,) = (path for path in cache.rglob("*.json") if path.name != "texts.json")
        content = json.loads(path.read_text())
        numbers = [place for place in paths(content) if isinstance(value_at(content, place), int)]
        place = data.draw(st.sampled_from(numbers))
        path.write_text(
            json.dumps(replaced(content, place, value_at(content, place) + data.draw(st.sampled_from([-1, 1]))))
        )

    read_changed(whole, tmp_path_factory.mktemp("changed"), kind, change)
