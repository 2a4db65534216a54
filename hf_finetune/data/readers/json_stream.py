"""Read JSON as it arrives, a value at a time: only that value is ever held."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_finetune.data.config import DataLimits
from hf_finetune.data.readers.text_file import too_long
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import row_place

Json = Any
# Characters that are read at least.
CHARACTERS_AT_ONCE = 1_000_000
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
# The decoder reports a value that breaks off at most this many characters before its end.
_LONGEST_TOKEN = len("-Infinity")
_NUMBER_GOES_ON = re.compile(r"[-+.0-9eE]*\Z")
_BROKEN_OFF = ("Unterminated string", "Invalid \\escape", "Invalid \\uXXXX escape")


class JsonStream:
    """A JSON text that is read as far as it is needed.

    Args:
        path: of its file, for messages.
        parts: the text in parts of any length.
        limits: `row_characters` limits each value that is read at once.
    """

    def __init__(self, path: Path, parts: Iterator[str], limits: DataLimits) -> None:
        self.path = path
        self.limits = limits
        self._parts = parts
        self._text = ""
        self._at = 0
        self._ended = False
        # Of the text that is dropped already.
        self._lines, self._column = 0, 0

    def peek(self) -> str:
        """Return the next character that is not blank; empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def value(self, place: str = "") -> Json:
        """Return the next value.

        Args:
            place: names the value in a message.

        Raises:
            InputError: it is malformed, or beyond the limits.
        """
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._ended or not self._breaks_off(error):
                    raise self.malformed(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:
                raise InputError(f"{self.path}: not readable as JSON ({error})") from None
            else:
                if self._ended or not _NUMBER_GOES_ON.match(self._text, end):
                    self._check_length(end - self._at, place)
                    self._at = end
                    return value
            self._check_length(len(self._text) - self._at, place)
            self._read_on()

    def items(self) -> Iterator[Json]:
        """Yield the items of the list that is next, at which the text must end.

        Raises:
            InputError: see `value`.
        """
        self._at += 1
        number, separator = 0, self.peek()
        while separator != "]":
            yield self.value(f", {row_place(number)}")
            number += 1
            separator = self.peek()
            if separator not in (",", "]"):
                raise self.malformed("Expecting ',' delimiter")
            self._at += separator == ","
        self._at += 1
        if self.peek():
            raise self.malformed("Extra data")

    def malformed(self, message: str, at: int | None = None) -> InputError:
        """Return the error for malformed text.

        Args:
            at: its position. None: the next character.
        """
        before = self._text[: self._at if at is None else at]
        line, start = before.count("\n"), before.rfind("\n") + 1
        column = len(before) - start + (0 if line else self._column) + 1
        return InputError(f"{self.path}, line {self._lines + line + 1}, column {column}: not JSON ({message})")

    def _breaks_off(self, error: json.JSONDecodeError) -> bool:
        """Return whether a value may be whole when more text is read."""
        return error.pos >= len(self._text) - _LONGEST_TOKEN or error.msg.startswith(_BROKEN_OFF)

    def _check_length(self, length: int, place: str) -> None:
        if length > self.limits.row_characters:
            raise too_long(f"{self.path}{place}", self.limits)

    def _read_on(self) -> None:
        """Drop what was read, and double the rest."""
        dropped = self._text[: self._at]
        if lines := dropped.count("\n"):
            self._lines, self._column = self._lines + lines, 0
        self._column += len(dropped) - (dropped.rfind("\n") + 1)
        rest = len(self._text) - self._at
        parts, length = [self._text[self._at :]], 0
        while length < max(rest, CHARACTERS_AT_ONCE):
            if (part := next(self._parts, None)) is None:
                self._ended = True
                break
            parts.append(part)
            length += len(part)
        self._text, self._at = "".join(parts), 0
