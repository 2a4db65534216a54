"""Pictures decoded once: resized pixels in a memory-mapped file, and what makes a model's input of a batch of them.

Only what a processor does up to its whole-number pixels (decoding, resizing, cropping) is kept, a quarter of the size
of its floats; rescaling and normalising is one cheap step on the batch.

Legend: N pictures, B of a batch, H height, W width.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from transformers import BaseImageProcessor

from hf_finetune.data.image import decode
from hf_finetune.data.rows import to_dataset
from hf_finetune.errors import InputError
from hf_finetune.utils import disk_cache

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger("hf_finetune.run")

FORMAT = 2
PIXELS = "pixels.bin"
PICTURES_AT_A_TIME = 64
# A processor is believed to keep its promise on all pictures when it keeps it on so many.
PROBED_PICTURES = 8

# Stores that this process reads, by folder: what another process removes from the disk stays readable here.
_OPEN: dict[str, np.memmap] = {}


def processed(processor: BaseImageProcessor, pictures: Sequence[Image], **options: Any) -> torch.Tensor:
    """What the processor makes of pictures. Shape (B, 3, H, W).

    Args:
        options: of the processor, in place of its own.

    Raises:
        InputError: it makes pictures of several sizes of them.
    """
    try:
        return processor(pictures, return_tensors="pt", **options)["pixel_values"]
    except ValueError:
        if len(pictures) == 1:
            raise
        shapes = [processed(processor, [picture], **options).shape for picture in pictures]
        sizes = sorted({(height, width) for *_, height, width in shapes})
        if len(sizes) == 1:
            raise
        shown = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise InputError(
            f"the checkpoint's {type(processor).__name__} makes pictures of several sizes ({shown}), and a batch has one: expected "
            "do_center_crop, or a size of height and width, in its preprocessor_config.json; or give pictures of one shape"
        ) from None


def resized(processor: BaseImageProcessor, pictures: Sequence[Image]) -> torch.Tensor:
    """What the processor makes of pictures before it rescales and normalises them. Shape (B, 3, H, W).

    Raises:
        InputError: see `processed`.
    """
    return processed(processor, pictures, do_rescale=False, do_normalize=False)


def normalised(processor: BaseImageProcessor, pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """Rescale and normalise in one step, in the order of operations of transformers' processors. float32."""
    config = processor.to_dict()
    scale = config["rescale_factor"] if config.get("do_rescale") else 1.0
    if not config.get("do_normalize"):
        return pixels_BCHW.float() * scale
    mean, deviation = (torch.tensor(config[n])[:, None, None] * (1.0 / scale) for n in ("image_mean", "image_std"))
    return pixels_BCHW.float().sub_(mean).div_(deviation)


def splits_in_two(processor: BaseImageProcessor, pictures: Sequence[Image]) -> bool:
    """Whether `normalised(resized(...))` is what the processor itself gives for these pictures, within 1e-6.

    It is not for one that computes in floats before it is done, takes no such options, or does something of its own.
    """
    try:
        pixels = resized(processor, pictures)
        whole = processed(processor, pictures)
        if (
            pixels.dtype != torch.uint8
            or pixels.ndim != 4
            or pixels.shape != whole.shape
            or whole.dtype != torch.float32
        ):
            return False
        found = normalised(processor, pixels)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
        return False
    return bool(torch.allclose(found, whole, rtol=0, atol=1e-6))


def probed(count: int) -> np.ndarray:
    """Which of so many pictures stand for all: up to `PROBED_PICTURES`, from the first to the last."""
    return np.linspace(0, count - 1, min(PROBED_PICTURES, count)).astype(int)


def check_changeable(processor: BaseImageProcessor, images: Sequence[dict[str, Any]], field: str) -> None:
    """Refuse to change pictures where what operations change is not what is normalised afterwards.

    Args:
        images: encoded pictures, of which some are looked at.
        field: what asked for it.

    Raises:
        InputError: naming the field and the processor; or it makes pictures of several sizes.
    """
    pictures = [decode(images[int(i)]) for i in probed(len(images))]
    processed(processor, pictures)
    if not splits_in_two(processor, pictures):
        raise InputError(
            f"{field}: expected none for this checkpoint: the pictures of its {type(processor).__name__} are no whole numbers "
            "before they are normalised, and operations change those"
        )


def decode_once(rows: Dataset, processor: BaseImageProcessor, *, budget_gb: float) -> Dataset:
    """The rows with their pictures in a store, see `keep`; rows that are in one already stay there.

    Where that cannot be, the rows come back as they are, and the reason is said.

    Args:
        rows: canonical rows with encoded pictures.
        budget_gb: gigabytes (10^9 bytes) that all stores may take on the disk, see `store`.
    """
    if len(rows) == 0 or gather(rows[:1]["image"]) is not None:
        return rows
    try:
        return keep_decoded(rows, processor, budget_gb=budget_gb)
    except disk_cache.NoStore as why:
        logger.info("pictures are decoded anew every epoch: %s", why)
        return rows


def keep_decoded(rows: Dataset, processor: BaseImageProcessor, *, budget_gb: float) -> Dataset:
    """As `decode_once`.

    Raises:
        NoStore: that cannot be.
    """
    pictures = [decode(image) for image in rows.select(probed(len(rows)))["image"]]
    if not splits_in_two(processor, pictures):
        raise disk_cache.NoStore(f"{type(processor).__name__} gives no whole-number pixels")
    size = tuple(resized(processor, pictures[:1]).shape[1:])
    return keep(rows, _chunks(rows, processor), size, identity(rows, processor), budget_gb=budget_gb)


def keep(
    rows: Dataset, chunks: Iterable[torch.Tensor], size: tuple[int, ...], about: Mapping[str, Any], *, budget_gb: float
) -> Dataset:
    """The rows with pictures of a store: `image` then names a place in it, which `gather` reads.

    Args:
        rows: whose pictures are exchanged.
        chunks: the new ones, part by part, (B, 3, H, W), uint8; not read where an earlier run left them.
        size: of each, (3, H, W).
        about: all that they depend on, as JSON has it.
        budget_gb: see `decode_once`.

    Raises:
        NoStore: see `utils.disk_cache.building`; or the pictures are of several sizes.
    """
    folder = disk_cache.folder_of("pixels", about)
    found = disk_cache.find(folder, _map)
    if found is None:
        _build(folder, chunks, (len(rows), *size), budget_gb)
        found = disk_cache.find(folder, _map)
    if found is None:
        raise disk_cache.NoStore(f"{folder} went away")
    _OPEN[str(folder)] = found
    disk_cache.hold(folder)
    places = pa.array(
        [{"bytes": None, "path": f"{folder}#{row}"} for row in range(len(rows))],
        pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    )
    table = rows.remove_columns("image").with_format("arrow")[:]
    return to_dataset(table.append_column("image", places))


def gather(images: Sequence[dict[str, Any]]) -> torch.Tensor | None:
    """Pixels (B, 3, H, W), uint8, of pictures that are in a store; None when any of them is not."""
    places = [("" if image["bytes"] else image["path"] or "").rpartition("#") for image in images]
    folders = {folder for folder, _, row in places if row.isdigit()}
    unseen = folders - _OPEN.keys()
    if not all(row.isdigit() for _, _, row in places) or not all(
        (Path(f) / disk_cache.MANIFEST).is_file() for f in unseen
    ):
        return None
    for folder in unseen:
        _OPEN[folder] = _map(Path(folder), disk_cache.manifest(Path(folder)))
    return torch.from_numpy(np.stack([_OPEN[folder][int(row)] for folder, _, row in places]))


def _map(folder: Path, manifest: dict[str, Any]) -> np.memmap:
    shape = tuple(int(side) for side in manifest["shape"])
    return np.memmap(folder / PIXELS, dtype=np.uint8, mode="r", shape=shape)


def identity(rows: Dataset, processor: BaseImageProcessor) -> dict[str, Any]:
    """All that decoded pictures depend on: the files, the processor, the versions."""
    config = {k: v for k, v in processor.to_dict().items() if k not in ("do_rescale", "rescale_factor", "do_normalize")}
    digest = hashlib.sha256()
    for images in _images(rows):
        for image in images:
            content = image["bytes"]
            if content is None:
                path = Path(image["path"])
                # One that went away is named when it is decoded.
                stat = path.stat() if path.exists() else None
                content = f"{path.absolute()} {stat and (stat.st_size, stat.st_mtime_ns)}".encode()
            digest.update(b"%d " % len(content))
            digest.update(content)
    return {
        "format": FORMAT,
        "processor": {k: v for k, v in config.items() if k not in ("image_mean", "image_std")},
        "versions": {name: version(name) for name in ("pillow", "torchvision", "transformers")},
        "pictures": digest.hexdigest(),
    }


def _images(rows: Dataset) -> Iterator[list[dict[str, Any]]]:
    for part in rows.select_columns("image").iter(batch_size=PICTURES_AT_A_TIME):
        yield part["image"]


def _chunks(rows: Dataset, processor: BaseImageProcessor) -> Iterator[torch.Tensor]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for images in _images(rows):
            yield resized(processor, list(pool.map(decode, images)))


def _build(folder: Path, chunks: Iterable[torch.Tensor], shape: tuple[int, ...], budget_gb: float) -> None:
    """Fill a store of pictures of the shape (N, 3, H, W).

    Raises:
        NoStore: see `utils.disk_cache.building`; or a picture has another size.
    """
    started, size = time.perf_counter(), int(np.prod(shape))
    with disk_cache.building(folder, needed=size, budget_gb=budget_gb, about={"shape": list(shape)}) as build:
        for pixels in chunks:
            if tuple(pixels.shape[1:]) != shape[1:] or pixels.dtype != torch.uint8:
                raise disk_cache.NoStore("the processor gives pictures of several sizes")
            build.append(PIXELS, pixels.contiguous().numpy())
    seconds = time.perf_counter() - started
    logger.info("%d pictures kept in %s: %.0f MB, %.1f s", shape[0], folder, size / 1e6, seconds)
