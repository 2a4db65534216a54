"""Cached images give the processor's own values; training also works with a damaged cache or without one."""

import io
import json
import logging
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from PIL import Image

from hf_finetune.data import image_cache, image_processing
from hf_finetune.data.image_decoding import decode
from hf_finetune.data.inputs import ImageInputs
from hf_finetune.errors import InputError
from hf_finetune.utils import disk_cache

SMALL = {"height": 24, "width": 24}
PROCESSORS = [
    transformers.ViTImageProcessor(size=SMALL),
    transformers.ViTImageProcessor(size=SMALL, resample=3, image_mean=[0.485, 0.456, 0.406]),
    transformers.ViTImageProcessor(size=SMALL, resample=0, do_normalize=False),
    transformers.ViTImageProcessor(size=SMALL, do_rescale=False),
    transformers.DeiTImageProcessor(size={"height": 32, "width": 32}, crop_size=SMALL),
    transformers.ConvNextImageProcessor(size={"shortest_edge": 24}, crop_pct=0.875),
    transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
    transformers.BeitImageProcessor(size=SMALL, do_center_crop=True, crop_size={"height": 20, "width": 20}),
    transformers.BitImageProcessor(size={"shortest_edge": 28}, crop_size=SMALL),
    transformers.ViTImageProcessorPil(size=SMALL),
    transformers.DeiTImageProcessorPil(size={"height": 32, "width": 32}, crop_size=SMALL),
]


def encoded(height: int, width: int, seed: int, kind: str = "PNG") -> dict:
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind)
    return {"bytes": file.getvalue(), "path": None}


def canonical(images: list[dict]) -> Dataset:
    labels = [i % 2 for i in range(len(images))]
    rows = Dataset.from_dict({"image": images, "label": labels, "row": list(range(len(images)))})
    return rows.cast_column("image", datasets.Image(decode=False))


@pytest.fixture
def rows() -> Dataset:
    sizes = [(40, 60), (60, 40), (24, 24), (8, 8), (50, 33)]
    return canonical([encoded(h, w, i, "JPEG" if i % 2 else "PNG") for i, (h, w) in enumerate(sizes)])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixels"


def forget_all() -> None:
    """Simulate a process that has read no images yet."""
    image_cache._OPEN.clear()
    disk_cache._PINNED.clear()


def stores(cache: Path) -> list[Path]:
    return [m.parent for m in cache.glob("*/manifest.json")]


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(image):
        raise AssertionError("decoded again")

    monkeypatch.setattr("hf_finetune.data.inputs.decode_pieces", refuse)


@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda p: type(p).__name__)
def test_values_are_the_processors_own(processor, rows: Dataset, cache: Path, monkeypatch) -> None:
    expected = processor([decode(image) for image in rows["image"]], return_tensors="pt")["pixel_values"]
    assert torch.equal(ImageInputs(processor).collate(rows[:])["pixel_values"], expected)
    inputs = ImageInputs(processor, decode_once=True)
    kept = inputs.encode(rows)
    assert len(stores(cache)) == 1
    forbid_decoding(monkeypatch)
    order = [4, 0, 3]
    pixels = inputs.collate(kept[order])["pixel_values"]
    assert pixels.dtype == torch.float32
    assert torch.allclose(pixels, expected[order], rtol=0, atol=1e-6)
    if not type(processor).__name__.endswith("Pil"):
        assert torch.equal(pixels, expected[order])


def test_rows_keep_their_order_and_columns(rows: Dataset, cache: Path) -> None:
    """Also for selected rows, whose indices the cache follows; a second run reuses the pixels of the first."""
    inputs = ImageInputs(PROCESSORS[0], decode_once=True)
    chosen = rows.select([3, 1])
    kept = inputs.encode(chosen)
    assert kept["label"][:] == [1, 1] and kept["row"][:] == [3, 1] and kept.features == chosen.features
    assert torch.equal(inputs.collate(kept[:])["pixel_values"], inputs.collate(chosen[:])["pixel_values"])
    before = (stores(cache)[0] / "pixels.bin").stat().st_mtime_ns
    inputs.encode(chosen)
    assert len(stores(cache)) == 1 and (stores(cache)[0] / "pixels.bin").stat().st_mtime_ns == before
    inputs.encode(rows)
    assert len(stores(cache)) == 2
    ImageInputs(PROCESSORS[1], decode_once=True).encode(rows)
    assert len(stores(cache)) == 3


def test_large_images_are_decoded_once(rows: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor is tried on reduced copies, equal images of a batch are resized once, and cached ones never."""
    processed: list[tuple[int, int]] = []

    class Recording(transformers.ViTImageProcessor):
        def preprocess(self, images, *args, **kwargs):
            # Large ones are tensors.
            processed.extend(tuple(i.shape[:0:-1]) if isinstance(i, torch.Tensor) else i.size for i in images)
            return super().preprocess(images, *args, **kwargs)

    monkeypatch.setattr(image_processing, "PROBED_PIXELS", 500)
    inputs = ImageInputs(Recording(size=SMALL), decode_once=True)
    chosen = rows.select([0, 1, 0, 0])
    kept = inputs.encode(chosen)
    assert [size for size in processed if max(size) > 40] == [(60, 40), (40, 60)]
    expected = ImageInputs(PROCESSORS[0]).collate(chosen[:])["pixel_values"]
    assert torch.equal(inputs.collate(kept[:])["pixel_values"], expected)
    processed.clear()
    inputs.encode(chosen)
    assert not processed


def test_damaged_store_is_built_anew(rows: Dataset, cache: Path, caplog) -> None:
    inputs = ImageInputs(PROCESSORS[0], decode_once=True)
    inputs.encode(rows)
    (entry,) = stores(cache)
    whole = (entry / "pixels.bin").read_bytes()
    (entry / "pixels.bin").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    kept = inputs.encode(rows)
    assert "damaged" in caplog.text
    assert (entry / "pixels.bin").read_bytes() == whole
    assert torch.equal(inputs.collate(kept[:])["pixel_values"], inputs.collate(rows[:])["pixel_values"])


def test_files_are_known_by_their_time(tmp_path: Path, cache: Path) -> None:
    """A changed file of the same name is a new image."""
    path = tmp_path / "a.png"
    inputs = ImageInputs(PROCESSORS[0], decode_once=True)
    for seed in (0, 1):
        path.write_bytes(encoded(30, 30, seed)["bytes"])
        named = canonical([{"bytes": None, "path": str(path)}])
        pixels = inputs.collate(inputs.encode(named)[:])["pixel_values"]
        assert torch.equal(pixels, inputs.collate(named[:])["pixel_values"])
    assert len(stores(cache)) == 2


class InFloats(transformers.ViTImageProcessor):
    """Rescales first, as some processors do."""

    def resize(self, image, size, **options):
        return super().resize(image.float(), size, **options)


class WithAnOffset(transformers.ViTImageProcessor):
    """Has a step that its options do not tell."""

    def rescale_and_normalize(self, images, *options):
        return super().rescale_and_normalize(images, *options) + 0.5


@pytest.mark.parametrize(
    "processor",
    [
        InFloats(size=SMALL),
        WithAnOffset(size=SMALL),
        transformers.ViTImageProcessor(size=SMALL, do_normalize=False, do_rescale=False),
    ],
    ids=lambda p: type(p).__name__,
)
def test_unknown_processors_decode_every_time(processor, rows: Dataset, cache: Path, caplog) -> None:
    caplog.set_level(logging.INFO, "hf_finetune.run")
    inputs = ImageInputs(processor, decode_once=True)
    kept = inputs.encode(rows)
    assert "decoded again in every epoch" in caplog.text and not stores(cache)
    expected = processor([decode(image) for image in rows["image"]], return_tensors="pt")["pixel_values"]
    assert torch.equal(inputs.collate(kept[:])["pixel_values"], expected)


def test_budget(rows: Dataset, cache: Path, caplog) -> None:
    """A budget below one entry caches nothing; a budget of one entry evicts the one that is not in use."""
    caplog.set_level(logging.INFO, "hf_finetune.run")
    size = 5 * 3 * 24 * 24
    kept = ImageInputs(PROCESSORS[0], decode_once=True, cache_gb=(size - 1) / 1e9).encode(rows)
    assert not stores(cache) and "batching.cache_gb allows" in caplog.text
    assert kept["image"][0]["bytes"]
    first = image_cache.decode_once(rows, PROCESSORS[0], budget_gb=1.5 * size / 1e9)
    second = image_cache.decode_once(rows, PROCESSORS[1], budget_gb=1.5 * size / 1e9)
    assert first["image"][0]["bytes"] is None and second["image"][0]["bytes"], "the first is in use"
    forget_all()
    second = image_cache.decode_once(rows, PROCESSORS[1], budget_gb=1.5 * size / 1e9)
    assert second["image"][0]["bytes"] is None and len(stores(cache)) == 1


def test_store_is_read_when_it_was_removed_meanwhile(rows: Dataset, cache: Path) -> None:
    inputs = ImageInputs(PROCESSORS[0], decode_once=True)
    kept = inputs.encode(rows)
    shutil.rmtree(cache)
    assert torch.equal(inputs.collate(kept[:])["pixel_values"], inputs.collate(rows[:])["pixel_values"])


def test_another_process_finds_the_store_by_its_name(rows: Dataset) -> None:
    """In a spawned worker of the loader."""
    inputs = ImageInputs(PROCESSORS[0], decode_once=True)
    kept = inputs.encode(rows)
    forget_all()
    assert torch.equal(inputs.collate(kept[:])["pixel_values"], inputs.collate(rows[:])["pixel_values"])


def test_images_of_several_sizes_are_decoded_every_time(rows: Dataset, cache: Path, caplog, monkeypatch) -> None:
    """Images beyond those of `probe_indices`."""
    caplog.set_level(logging.INFO, "hf_finetune.run")
    monkeypatch.setattr(
        image_cache, "_chunks", lambda *_: (torch.zeros(2, 3, 24, n, dtype=torch.uint8) for n in (24, 25))
    )
    kept = ImageInputs(PROCESSORS[0], decode_once=True).encode(rows)
    assert kept["image"][0]["bytes"] and "images of several sizes" in caplog.text and not stores(cache)


def test_unreadable_image_is_named_and_nothing_is_left(tmp_path: Path, cache: Path) -> None:
    images = [encoded(30, 30, i) for i in range(20)]
    images[1] = {"bytes": images[1]["bytes"][:100], "path": "torn.png"}
    with pytest.raises(InputError, match=r"torn\.png: unreadable image"):
        ImageInputs(PROCESSORS[0], decode_once=True).encode(canonical(images))
    assert list(cache.glob("*")) == []


def test_unwritable_cache_is_said(tmp_path: Path, rows: Dataset, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO, "hf_finetune.run")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "file"))
    kept = ImageInputs(PROCESSORS[0], decode_once=True).encode(rows)
    assert kept["image"][0]["bytes"] and "cannot be written" in caplog.text


def test_manifest_says_what_is_there(rows: Dataset, cache: Path) -> None:
    ImageInputs(PROCESSORS[0], decode_once=True).encode(rows)
    (store,) = stores(cache)
    manifest = json.loads((store / "manifest.json").read_text())
    assert manifest["shape"] == [5, 3, 24, 24]
    assert np.prod(manifest["shape"]) == (store / "pixels.bin").stat().st_size


KEEPS_SHAPES = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False)
OF_SEVERAL_SIZES = [(50, 50), (33, 17), (40, 80)]


@pytest.mark.parametrize("look", ["change", "read"])
def test_a_processor_that_leaves_images_their_shape_is_named_with_the_sizes(look: str) -> None:
    """One image alone is fine, and so are images of one shape."""
    alike = canonical([encoded(40, 80, seed) for seed in range(2)])
    assert ImageInputs(KEEPS_SHAPES).collate(alike[:])["pixel_values"].shape == (2, 3, 32, 64)
    image_processing.check_augmentable(KEEPS_SHAPES, alike["image"], "data.augment")
    rows = canonical([encoded(h, w, h) for h, w in OF_SEVERAL_SIZES])
    with pytest.raises(
        InputError,
        match=r"^the checkpoint's CLIPImageProcessor makes images of several sizes \(32x32, 32x64, 62x32\)",
    ):
        if look == "change":
            image_processing.check_augmentable(KEEPS_SHAPES, rows["image"], "data.augment")
        else:
            ImageInputs(KEEPS_SHAPES).collate(rows[:])


def test_a_path_of_the_data_is_no_reference(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    manifest = {"shape": [1, 3, 2, 2], "files": {}}
    (tmp_path / "images" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "images" / "pixels.bin").write_bytes(bytes(12))
    assert image_cache.cached_pixels([{"bytes": None, "path": f"{tmp_path}/images#0"}]) is None
