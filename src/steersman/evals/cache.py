"""Answers on disk, one JSON line each, by the content hash of what was asked.

Only whole lines count. A line that a kill or a full disk cut short is dropped on reading, and cut
off before the next answer is written behind it.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from steersman.core.errors import DataError
from steersman.evals.files import storage_error

Trace = Mapping[str, Mapping[str, float | str | None]]


class CachedAnswer(NamedTuple):
    """What is remembered of a completion."""

    text: str
    trace: Trace


class AnswerCache:
    """The file at `path`; without a path it remembers nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def load(self) -> dict[str, CachedAnswer]:
        """Every answer that was written whole.

        Raises:
            DataError: a line other than a cut last one is damaged.
        """
        if self.path is None or not self.path.exists():
            return {}
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error}.") from error
        answers = {}
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
                answers[entry["key"]] = CachedAnswer(entry["text"], entry["trace"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{self.path}:{number} is damaged ({error}). Delete that line, or the file, "
                    "and its answers are asked for again."
                ) from error
        return answers

    def append(self, answers: Mapping[str, CachedAnswer]) -> None:
        """Writes answers behind the last whole line, and waits until the disk has them.

        Raises:
            StorageError: the disk refused; the whole lines that are there are kept.
        """
        if self.path is None:
            return
        lines = [
            json.dumps({"key": key, "text": answer.text, "trace": answer.trace}) + "\n"
            for key, answer in answers.items()
        ]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                _cut_partial_line(file)
                file.write("".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(self.path, error) from error


def _cut_partial_line(file: BinaryIO) -> None:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    if file.read(1) in (b"", b"\n"):
        return
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
