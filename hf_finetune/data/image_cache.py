"""Cache decoded images: resized pixels in a memory-mapped file of the disk cache.

The cache holds 8-bit pixels after decoding, resizing and cropping, a quarter of the size of floats; rescaling and
normalization is one cheap step on the batch.

Legend: N images, B of a batch, H height, W width.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from transformers import BaseImageProcessor

from hf_finetune.data.image_decoding import EncodedImage, decode_parallel
from hf_finetune.data.image_processing import PROBED_IMAGES, in_pieces, resize, splits_in_two
from hf_finetune.data.rows import to_dataset
from hf_finetune.data.thumbnails import remembering
from hf_finetune.utils import disk_cache, environment
from hf_finetune.utils.core_sharing import available_cores
from hf_finetune.utils.messages import counted

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger("hf_finetune.run")

FORMAT = 2
PIXELS = "pixels.bin"
IMAGES_AT_A_TIME = 64

# Memory maps of this process, by folder: they stay readable when another process removes the files.
_OPEN: dict[str, np.memmap] = {}


def decode_once(rows: Dataset, processor: BaseImageProcessor, *, budget_gb: float) -> Dataset:
    """Cache decoded images, see `cache_pixels`. Images that are cached already, or cannot be, are returned unchanged.

    Args:
        rows: canonical rows with encoded images.
        budget_gb: budget of the whole disk cache in gigabytes (10^9 bytes).
    """
    if len(rows) == 0 or cached_pixels(rows[:1]["image"]) is not None:
        return rows
    try:
        return cache_decoded(rows, processor, budget_gb=budget_gb)
    except disk_cache.CacheUnavailable as why:
        logger.info("images are decoded again in every epoch: %s", why)
        return rows


def cache_decoded(rows: Dataset, processor: BaseImageProcessor, *, budget_gb: float) -> Dataset:
    """Cache decoded images, see `cache_pixels`.

    Raises:
        CacheUnavailable: the images cannot be cached.
    """
    return cache_pixels(rows, _chunks(rows, processor), cache_key(rows, processor), budget_gb=budget_gb)


def cache_pixels(rows: Dataset, chunks: Iterable[torch.Tensor], key: Mapping[str, Any], *, budget_gb: float) -> Dataset:
    """Write pixels to the cache, unless an earlier run did, and replace `image` by references for `cached_pixels`.

    Args:
        rows: rows whose images are replaced.
        chunks: the pixels in batches, (B, 3, H, W), uint8; not read if they are cached.
        key: everything that the pixels depend on, as JSON.
        budget_gb: see `decode_once`.

    Raises:
        CacheUnavailable: see `utils.disk_cache.building`; or the images are of several sizes.
    """
    folder = disk_cache.entry_folder("pixels", key)
    pixels = disk_cache.find(folder, _map)
    if pixels is None:
        _build(folder, chunks, len(rows), budget_gb)
        pixels = disk_cache.find(folder, _map)
    if pixels is None:
        raise disk_cache.CacheUnavailable(f"{folder} was removed")
    _OPEN[str(folder)] = pixels
    disk_cache.pin(folder)
    places = pa.array(
        [{"bytes": None, "path": f"{folder}#{row}"} for row in range(len(rows))],
        pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    )
    table = rows.remove_columns("image").with_format("arrow")[:]
    return to_dataset(table.append_column("image", places))


def cached_pixels(images: Sequence[EncodedImage]) -> torch.Tensor | None:
    """Return the cached pixels (B, 3, H, W), uint8, or None if an image is not cached."""
    places = [("" if image["bytes"] else image["path"] or "").rpartition("#") for image in images]
    if not all(row.isdigit() for _, _, row in places):
        return None
    for folder in {folder for folder, _, _ in places} - _OPEN.keys():
        # A path of the data may look like a reference.
        if (
            Path(folder).parent != environment.cache_folder() / "pixels"
            or not (Path(folder) / disk_cache.MANIFEST).is_file()
        ):
            return None
        _OPEN[folder] = _map(Path(folder), disk_cache.manifest(Path(folder)))
    return torch.from_numpy(np.stack([_OPEN[folder][int(row)] for folder, _, row in places]))


def cache_key(rows: Dataset, processor: BaseImageProcessor) -> dict[str, object]:
    """Return everything that decoded images depend on: the files, the processor, the versions."""
    # Options that apply to the pixels after the cache.
    later = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    digest = hashlib.sha256()
    for images in images_of(rows):
        for image in images:
            content = image["bytes"]
            if content is None:
                assert image["path"] is not None, "checked when the row was read"
                path = Path(image["path"])
                # A missing file is reported when it is decoded.
                stat = path.stat() if path.exists() else None
                content = f"{path.absolute()} {stat and (stat.st_size, stat.st_mtime_ns)}".encode()
            digest.update(b"%d " % len(content))
            digest.update(content)
    return {
        "format": FORMAT,
        "processor": {name: value for name, value in processor.to_dict().items() if name not in later},
        "versions": {name: version(name) for name in ("pillow", "torchvision", "transformers")},
        "pictures": digest.hexdigest(),
    }


def images_of(rows: Dataset) -> Iterator[list[EncodedImage]]:
    """Yield the encoded images of rows, a few at a time."""
    for part in rows.select_columns("image").iter(batch_size=IMAGES_AT_A_TIME):
        yield part["image"]


def _chunks(rows: Dataset, processor: BaseImageProcessor) -> Iterator[torch.Tensor]:
    """Yield the resized images in batches, (B, 3, H, W), uint8.

    Raises:
        CacheUnavailable: the processor's pixels cannot be cached.
    """
    probe = True
    with ThreadPoolExecutor(available_cores()) as pool:
        for images in images_of(rows):
            # The same image may be in several rows.
            keys = [(image["path"], image["bytes"]) for image in images]
            distinct = dict(zip(keys, images, strict=True))
            decoded = remembering(list(distinct.values()), decode_parallel(list(distinct.values()), pool))
            pixels = in_pieces(resize, processor, _probed(processor, decoded) if probe else decoded)
            probe = False
            yield pixels if len(distinct) == len(keys) else pixels[[list(distinct).index(key) for key in keys]]


def _probed(processor: BaseImageProcessor, pieces: Iterator[list[Image]]) -> Iterator[list[Image]]:
    """Yield decoded images, after the processor was tried on the first ones.

    Raises:
        CacheUnavailable: its pixels cannot be cached.
    """
    first = next(pieces)
    if not splits_in_two(processor, first[:PROBED_IMAGES]):
        raise disk_cache.CacheUnavailable(
            f"{type(processor).__name__} does not give 8-bit pixels before it normalizes them"
        )
    yield first
    yield from pieces


def _map(folder: Path, manifest: dict[str, Any]) -> np.memmap:
    shape = tuple(int(side) for side in manifest["shape"])
    return np.memmap(folder / PIXELS, dtype=np.uint8, mode="r", shape=shape)


def _build(folder: Path, chunks: Iterable[torch.Tensor], rows: int, budget_gb: float) -> None:
    started, waiting = time.perf_counter(), iter(chunks)
    first = next(waiting)
    shape = (rows, *first.shape[1:])
    size = int(np.prod(shape))
    with disk_cache.building(folder, needed=size, budget_gb=budget_gb, about={"shape": list(shape)}) as build:
        for pixels in chain([first], waiting):
            if tuple(pixels.shape[1:]) != shape[1:] or pixels.dtype != torch.uint8:
                raise disk_cache.CacheUnavailable("the processor gives images of several sizes")
            build.append(PIXELS, pixels.contiguous().numpy())
    seconds = time.perf_counter() - started
    logger.info("%s cached in %s: %.0f MB, %.1f s", counted(shape[0], "image"), folder, size / 1e6, seconds)
