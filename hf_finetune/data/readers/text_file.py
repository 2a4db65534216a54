"""Read the lines of text files in any encoding, with one-line errors."""

from collections.abc import Iterator
from pathlib import Path

from hf_finetune.errors import InputError

CHARACTERS_AT_ONCE = 1_000_000


def read_lines(path: Path, encoding: str) -> Iterator[str]:
    """Yield the lines of a text file with their ends, without a byte order mark.

    Raises:
        InputError: the file cannot be read, the encoding is unknown, or a line has undecodable or NUL bytes.
    """
    try:
        with path.open(encoding=codec_of(encoding), newline="") as file:
            number, parts = 1, list[str]()
            # In parts: a file of zeros is one endless line.
            while part := file.readline(CHARACTERS_AT_ONCE):
                if "\0" in part:
                    raise InputError(
                        f"{path}, line {number}: a NUL byte; remove it, or for a UTF-16 file use --data.encoding utf-16"
                    )
                parts.append(part)
                if len(part) < CHARACTERS_AT_ONCE or part.endswith("\n"):
                    yield part if len(parts) == 1 else "".join(parts)
                    number, parts = number + 1, []
            if parts:
                yield "".join(parts)
    except (OSError, UnicodeError) as error:
        raise unreadable(path, encoding, error) from None


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


def unreadable(path: Path, encoding: str, error: OSError | UnicodeError) -> InputError:
    """Return the error for a text file that cannot be read, naming the line of the first undecodable byte."""
    if isinstance(error, OSError):
        return InputError(f"{path}: cannot be read ({error.strerror})")
    data = path.read_bytes()
    line, culprit = 1, "it"
    try:
        data.decode(encoding)
    except UnicodeDecodeError as failure:
        line, culprit = data.count(b"\n", 0, failure.start) + 1, f"byte 0x{data[failure.start]:02x}"
    except UnicodeError:
        pass
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        likely = "utf-16"
    else:
        likely = {"utf-8-sig": "cp1252", "cp1252": "latin-1"}.get(codec_of(encoding), "utf-8")
    remedy = f"name the file's encoding: --data.encoding {likely}"
    return InputError(f"{path}, line {line}: {culprit} is not {encoding}; {remedy}")
