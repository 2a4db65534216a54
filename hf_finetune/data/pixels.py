"""Pictures decoded once: resized pixels in a memory-mapped file, and what makes a model's input of a batch of them.

Only what a processor does up to its whole-number pixels (decoding, resizing, cropping) is kept, a quarter of the size
of its floats; rescaling and normalising is one cheap step on the batch.

Legend: N pictures, B of a batch, H height, W width.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from transformers import BaseImageProcessor

from hf_finetune.codec import write_json
from hf_finetune.data.image import decode
from hf_finetune.data.rows import to_dataset
from hf_finetune.environment import cache_folder

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger("hf_finetune.run")

FORMAT = 1
MANIFEST, PIXELS = "manifest.json", "pixels.bin"
PICTURES_AT_A_TIME = 64
# A processor is believed to keep its promise on all pictures when it keeps it on so many.
PROBED_PICTURES = 8
# A build that has not written for so long was killed.
ABANDONED_AFTER_SECONDS = 3600
# Left free on the disk, for the run itself.
SPARE_BYTES = 1_000_000_000

# Stores that this process has checked, by folder: what another process removes from the disk stays readable here.
_OPEN: dict[str, np.memmap] = {}


def resized(processor: BaseImageProcessor, pictures: Sequence[Image]) -> torch.Tensor:
    """What the processor makes of pictures before it rescales and normalises them. Shape (B, 3, H, W)."""
    return processor(pictures, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]


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
        whole = processor(pictures, return_tensors="pt")["pixel_values"]
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


def decode_once(rows: Dataset, processor: BaseImageProcessor, *, budget_gb: float) -> Dataset:
    """The rows with their pictures in a store: `image` then names a place in it, which `gather` reads.

    Where that cannot be, the rows come back as they are, and the reason is said.

    Args:
        rows: canonical rows with encoded pictures.
        budget_gb: gigabytes (10^9 bytes) that all stores of pixels may take on the disk.
    """
    if len(rows) == 0:
        return rows
    probed = np.linspace(0, len(rows) - 1, min(PROBED_PICTURES, len(rows))).astype(int)
    pictures = [decode(image) for image in rows.select(probed)["image"]]
    if not splits_in_two(processor, pictures):
        return _as_they_are(rows, f"{type(processor).__name__} gives no whole-number pixels")
    shape = tuple(resized(processor, pictures[:1]).shape[1:])
    folder = cache_folder() / "pixels" / _key(rows, processor)
    if open_pixels(folder) is None:
        try:
            needed = len(rows) * int(np.prod(shape))
            if why := _make_room(folder.parent, needed, int(budget_gb * 1e9)):
                return _as_they_are(rows, why)
            _write(folder, _chunks(rows, processor), (len(rows), *shape))
        except OSError as error:
            return _as_they_are(rows, f"{folder.parent} cannot be written ({error.strerror})")
        except _OtherShape:
            return _as_they_are(rows, "the processor gives pictures of several sizes")
        open_pixels(folder)
    places = pa.array(
        [{"bytes": None, "path": f"{folder}#{row}"} for row in range(len(rows))],
        pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    )
    table = rows.remove_columns("image").with_format("arrow")[:]
    return to_dataset(table.append_column("image", places))


def _as_they_are(rows: Dataset, why: str) -> Dataset:
    logger.info("pictures are decoded anew every epoch: %s", why)
    return rows


class _OtherShape(Exception):
    """A picture has another shape than the first."""


def gather(images: Sequence[dict[str, Any]]) -> torch.Tensor | None:
    """Pixels (B, 3, H, W), uint8, of pictures that are in a store; None when any of them is not."""
    places = [("" if image["bytes"] else image["path"] or "").rpartition("#") for image in images]
    folders = {folder for folder, _, row in places if row.isdigit()}
    unseen = folders - _OPEN.keys()
    if not all(row.isdigit() for _, _, row in places) or not all((Path(f) / MANIFEST).is_file() for f in unseen):
        return None
    stores = {folder: _OPEN[folder] if folder in _OPEN else _map(Path(folder)) for folder in folders}
    return torch.from_numpy(np.stack([stores[folder][int(row)] for folder, _, row in places]))


def open_pixels(folder: Path) -> np.memmap | None:
    """Map a store (N, 3, H, W), and note that it was used. None when there is none, or a damaged one, which is said."""
    if not folder.exists():
        return None
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        with (folder / PIXELS).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != manifest["sha256"]:
                raise ValueError(f"{PIXELS} is not what its manifest says")
        _OPEN[str(folder)] = _map(folder)
        os.utime(folder / MANIFEST)
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: damaged (%s): it is built anew", folder, " ".join(str(error).split()))
        return None
    return _OPEN[str(folder)]


def _map(folder: Path) -> np.memmap:
    shape = tuple(int(side) for side in json.loads((folder / MANIFEST).read_text())["shape"])
    return np.memmap(folder / PIXELS, dtype=np.uint8, mode="r", shape=shape)


def _key(rows: Dataset, processor: BaseImageProcessor) -> str:
    """Name of the store for everything that its content depends on: the pictures, the processor, the versions."""
    config = {k: v for k, v in processor.to_dict().items() if k not in ("do_rescale", "rescale_factor", "do_normalize")}
    about = {"format": FORMAT, "processor": {k: v for k, v in config.items() if k not in ("image_mean", "image_std")}}
    about["versions"] = {name: version(name) for name in ("pillow", "torchvision", "transformers")}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
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
    return digest.hexdigest()[:32]


def _images(rows: Dataset) -> Iterator[list[dict[str, Any]]]:
    for part in rows.select_columns("image").iter(batch_size=PICTURES_AT_A_TIME):
        yield part["image"]


def _chunks(rows: Dataset, processor: BaseImageProcessor) -> Iterator[torch.Tensor]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for images in _images(rows):
            yield resized(processor, list(pool.map(decode, images)))


def _write(folder: Path, chunks: Iterator[torch.Tensor], shape: tuple[int, ...]) -> None:
    """Write a store beside its final place, its manifest last, then move it there.

    Raises:
        OSError: the disk is full, or not ours to write; nothing is left behind.
    """
    started = time.perf_counter()
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".partial-"))
    try:
        digest = hashlib.sha256()
        with (partial / PIXELS).open("wb") as file:
            for pixels in chunks:
                if tuple(pixels.shape[1:]) != shape[1:] or pixels.dtype != torch.uint8:
                    raise _OtherShape
                block = pixels.contiguous().numpy()
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        write_json(partial / MANIFEST, {"format": FORMAT, "shape": list(shape), "sha256": digest.hexdigest()})
        # Gone when damaged; a whole one was put there meanwhile by another process.
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    logger.info(
        "%d pictures decoded once into %s: %.0f MB, %.1f s",
        shape[0],
        folder,
        np.prod(shape) / 1e6,
        time.perf_counter() - started,
    )


def _make_room(home: Path, needed: int, budget: int) -> str | None:
    """Remove the least recently used stores until `needed` bytes more fit; None, or why there is no room for them."""
    if needed > budget:
        return f"{needed / 1e9:.2f} GB are needed, batching.cache_gb allows {budget / 1e9:.2f}"
    home.mkdir(parents=True, exist_ok=True)
    for partial in home.glob(".partial-*"):
        newest = max((f.stat().st_mtime for f in [partial, *partial.iterdir()]), default=0.0)
        if time.time() - newest > ABANDONED_AFTER_SECONDS:
            shutil.rmtree(partial, ignore_errors=True)
    stores = sorted((m.parent for m in home.glob(f"*/{MANIFEST}")), key=lambda s: (s / MANIFEST).stat().st_mtime)
    sizes = {store: sum(f.stat().st_size for f in store.iterdir()) for store in stores}
    # Those in use would be gone for the next run, and their place on the disk taken until this one ends.
    idle = [store for store in stores if str(store) not in _OPEN]
    gain, free = sum(sizes[store] for store in idle), shutil.disk_usage(home).free
    if needed + SPARE_BYTES > free + gain:
        return f"{needed / 1e9:.2f} GB are needed and 1 GB to spare, {home} has {free / 1e9:.2f} GB free"
    if sum(sizes.values()) - gain + needed > budget:
        return f"{needed / 1e9:.2f} GB are needed beside what is in use, batching.cache_gb allows {budget / 1e9:.2f} in all"
    for store in idle:
        if sum(sizes.values()) + needed <= budget and needed + SPARE_BYTES <= free:
            break
        logger.info("%s: removed, the pictures used least recently, to make room", store)
        shutil.rmtree(store, ignore_errors=True)
        free += sizes.pop(store)
    return None
