"""Server-sent events, in the pieces in which they come: whole events out, their bytes kept."""

import json
import re
from typing import Any

BLANK = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
LINE = re.compile(rb"\r\n|\n|\r")


class Events:
    """Cuts a stream into events, wherever the transport has cut it."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._searched = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that are whole now, each with the blank line that ends it."""
        self._held += piece
        whole: list[bytes] = []
        start = 0
        while found := BLANK.search(self._held, max(start, self._searched - 3)):
            if found.end() == len(self._held) and self._held.endswith(b"\r"):
                break  # a line feed may follow, which belongs to this line's end
            whole.append(bytes(self._held[start : found.end()]))
            start = self._searched = found.end()
        del self._held[:start]
        self._searched = len(self._held)
        return whole

    def rest(self) -> bytes:
        """What came behind the last whole event."""
        held = bytes(self._held)
        self._held.clear()
        self._searched = 0
        return held


def data_of(event: bytes) -> str | None:
    """The data of an event; None for comments, and for what is no text."""
    lines = [line[5:] for line in LINE.split(event) if line.startswith(b"data:")]
    if not lines:
        return None
    try:
        return b"\n".join(line.removeprefix(b" ") for line in lines).decode()
    except UnicodeDecodeError:
        return None


def object_of(event: bytes) -> dict[str, Any] | None:
    """The JSON object in an event; None if its data is something else."""
    data = data_of(event)
    if data is None:
        return None
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return given if isinstance(given, dict) else None


def with_object(event: bytes, given: dict[str, Any]) -> bytes:
    """The event with other data; its comments and other fields are kept."""
    lines = [line for line in LINE.split(event) if line and not line.startswith(b"data:")]
    return b"\n".join([*lines, b"data: " + packed(given)]) + b"\n\n"


def packed(given: object) -> bytes:
    """JSON without blanks; half a surrogate pair, which is no UTF-8, is written as an escape."""
    text = json.dumps(given, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")
