"""Open files that may be compressed, and count what they decompress to."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa

from hf_finetune.data.config import DEFAULT_LIMITS, DataLimits
from hf_finetune.errors import InputError

# A file may decode to this many times its size, whatever the limit.
EXPANSION = 20
_CODECS = {".gz": "gzip", ".zst": "zstd"}
COMPRESSED = tuple(_CODECS)
"""Suffixes of compressed files."""


def format_of(path: Path) -> str:
    """Return the lower-case suffix that tells the format: `.csv` of `a.csv.gz`, too."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in _CODECS else path.suffix.lower()


def bare_stem(path: Path) -> str:
    """Return the name of a file without the suffixes of its format and its compression."""
    return Path(path.stem).stem if path.suffix.lower() in _CODECS and Path(path.stem).suffix else path.stem


@contextmanager
def open_binary(path: Path, limits: DataLimits = DEFAULT_LIMITS) -> Iterator[IO[bytes]]:
    """Open a file, decompressed by its suffix.

    Raises:
        InputError: while it is read: it is damaged, or decompresses to more than the limit.
        OSError: it cannot be opened.
    """
    codec = _CODECS.get(path.suffix.lower())
    with path.open("rb") as file:
        if codec is None:
            yield file
        else:
            most = most_decoded(path, limits)
            yield io.BufferedReader(_Counted(pa.CompressedInputStream(file, codec), path, most), 1 << 20)


def most_decoded(path: Path, limits: DataLimits) -> int:
    """Return the largest decoded size of a file in bytes: the limit, or some times its own size if that is more."""
    return max(limits.decoded_bytes, EXPANSION * path.stat().st_size)


def too_large(place: str, most: int) -> InputError:
    """Return the error for a source that decodes to more bytes than its limit."""
    return InputError(
        f"{place}: it decodes to more than {most:,} bytes, far more than the file has; if you trust it, "
        "raise --data.limits.decoded-bytes"
    )


class _Counted(io.RawIOBase):
    """A decompressing stream that refuses to go on beyond a number of bytes."""

    def __init__(self, stream: pa.NativeFile, path: Path, most: int) -> None:
        self.stream, self.path, self.most, self.total = stream, path, most, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self.stream.read(len(buffer))
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{self.path}: damaged, it cannot be decompressed ({reason}); compress or download it again"
            ) from None
        self.total += len(data)
        if self.total > self.most:
            raise too_large(str(self.path), self.most)
        buffer[: len(data)] = data
        return len(data)
