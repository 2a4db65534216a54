"""Read the lines of text files in any encoding, with one-line errors."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

from hf_finetune.data.config import DEFAULT_LIMITS, DataLimits
from hf_finetune.data.readers.compressed import open_binary
from hf_finetune.errors import InputError

CHARACTERS_AT_ONCE = 1_000_000
# The longer ones first: the mark of UTF-16 begins that of UTF-32.
_MARKS = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_lines(
    path: Path, encoding: str, limits: DataLimits = DEFAULT_LIMITS, *, strict: bool = True, remedy: str = ""
) -> Iterator[str]:
    """Yield the lines of a text file with their ends, without a byte order mark.

    Args:
        strict: False: leave NUL bytes, and undecodable ones as surrogates, see `undecodable`.
        remedy: another remedy for such a byte.

    Raises:
        InputError: see `read_parts`; or a line is beyond `limits.row_characters`.
    """
    number, length, parts = 1, 0, list[str]()
    for part in read_parts(path, encoding, limits, strict=strict, remedy=remedy):
        parts.append(part)
        length += len(part)
        if length > limits.row_characters:
            raise too_long(f"{path}, line {number}", limits)
        if len(part) < CHARACTERS_AT_ONCE or part.endswith("\n"):
            yield part if len(parts) == 1 else "".join(parts)
            number, length, parts = number + 1, 0, []
    if parts:
        yield "".join(parts)


def too_long(place: str, limits: DataLimits) -> InputError:
    """Return the error for a line or a row beyond the limits."""
    most = limits.row_characters
    return InputError(f"{place}: more than {most:,} characters; shorten it or raise --data.limits.row-characters")


def read_parts(
    path: Path, encoding: str, limits: DataLimits = DEFAULT_LIMITS, *, strict: bool = True, remedy: str = ""
) -> Iterator[str]:
    """Yield the lines of a text file with their ends, long ones in parts of `CHARACTERS_AT_ONCE`; see `read_lines`.

    Raises:
        InputError: the file cannot be read or decompressed, the encoding is unknown, a line has undecodable or NUL
            bytes, or there are more blank lines than `limits.blank_lines`.
    """
    try:
        with (
            open_binary(path, limits) as binary,
            io.TextIOWrapper(
                binary,
                encoding=codec_of(actual_encoding(path, encoding)),
                errors="strict" if strict else "surrogateescape",
                newline="",
            ) as file,
        ):
            number, blank = 1, 0
            # In parts: a file of zeros is one endless line.
            while part := file.readline(CHARACTERS_AT_ONCE):
                if strict and "\0" in part:
                    raise InputError(
                        f"{path}, line {number}: a NUL byte; remove it, or for a UTF-16 file use --data.encoding utf-16"
                        f"{remedy}"
                    )
                blank = blank + 1 if part.isspace() else 0
                if blank > limits.blank_lines:
                    most = f"{limits.blank_lines:,} blank lines"
                    raise InputError(
                        f"{path}, line {number}: more than {most}; remove them or raise --data.limits.blank-lines"
                    )
                yield part
                number += part.endswith(("\n", "\r"))
    except (OSError, UnicodeError) as error:
        raise unreadable(path, encoding, error, limits, remedy=remedy) from None


def undecodable(text: str, encoding: str) -> str | None:
    """Return what is wrong with a text that `read_lines` read without `strict`: undecodable or NUL bytes, or None."""
    if "\0" in text:
        return "a NUL byte"
    escaped = re.search("[\udc80-\udcff]", text)
    return None if escaped is None else f"byte 0x{ord(escaped[0]) - 0xDC00:02x} is not {encoding}"


def actual_encoding(path: Path, encoding: str) -> str:
    """Return the encoding that a byte order mark tells where UTF-8 is expected, which has no such bytes.

    Raises:
        InputError: the file cannot be decompressed.
        OSError: it cannot be read.
    """
    if codec_of(encoding) != "utf-8-sig":
        return encoding
    with open_binary(path) as file:
        start = file.read(4)
    return next((marked for mark, marked in _MARKS.items() if start.startswith(mark)), encoding)


def note_of_mark(path: Path, encoding: str) -> tuple[str, ...]:
    """Return a note on the encoding that a byte order mark tells, if it is another one.

    Raises:
        InputError: see `actual_encoding`.
    """
    actual = actual_encoding(path, encoding)
    return () if actual == encoding else (f"{path.name}: read as {actual}, by its byte order mark",)


def codec_of(encoding: str) -> str:
    """Return the codec of an encoding; for UTF-8 the one that accepts a byte order mark.

    Raises:
        InputError: Python has no such encoding.
    """
    try:
        "".encode(encoding)
    except LookupError:
        raise InputError(f"--data.encoding {encoding}: no such encoding; try utf-8, cp1252 or utf-16") from None
    return "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding


def unreadable(
    path: Path, encoding: str, error: OSError | UnicodeError, limits: DataLimits = DEFAULT_LIMITS, *, remedy: str = ""
) -> InputError:
    """Return the error for a text file that cannot be read, naming the line of the first undecodable byte."""
    if isinstance(error, OSError):
        return InputError(f"{path}: cannot be read ({error.strerror})")
    encoding = actual_encoding(path, encoding)
    with open_binary(path, limits) as file:
        data = file.read()
    line, culprit = 1, "it"
    try:
        data.decode(encoding)
    except UnicodeDecodeError as failure:
        line, culprit = data.count(b"\n", 0, failure.start) + 1, f"byte 0x{data[failure.start]:02x}"
    except UnicodeError:
        pass
    likely = {"utf-8-sig": "cp1252", "cp1252": "latin-1"}.get(codec_of(encoding), "utf-8")
    return InputError(
        f"{path}, line {line}: {culprit} is not {encoding}; name the file's encoding: --data.encoding {likely}{remedy}"
    )
