"""What every verb prints with: results on stdout, progress on stderr and only on a terminal."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

if TYPE_CHECKING:  # torch would make `--help` slow
    from rich.progress import Task

    from steersman.backends.progress import CaptureProgress

out = Console()
err = Console(stderr=True)


def say(text: str, style: str | None = None) -> None:
    """One line as it is: paths and names of others are not read as markup, nor wrapped."""
    out.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """One JSON document on stdout, for programs."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


class Stages:
    """Progress of a long run: a bar with the time left on a terminal, nothing elsewhere."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=1.0)
        self._stage = ""

    def __call__(self, stage: str, share: float) -> None:
        """Says what is being done; a share below 0 is a message to keep."""
        if share < 0:
            self._progress.console.print(f"  {stage}", style="dim", markup=False, highlight=False)
        else:
            self._stage = stage
            self._progress.update(self._task, description=stage, completed=share, reading=False)

    def capture(self, now: "CaptureProgress") -> None:
        """Says in the place of the stage how fast the model is read, while it is."""
        reading = now.rows < now.total
        said = told(now) if reading else f"{self._stage}: computing"
        self._progress.update(self._task, description=said, reading=reading)


class CaptureLines:
    """Progress of reading for programs: JSON lines on stderr, one a second at most."""

    EVERY = 1.0  # seconds

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, now: "CaptureProgress") -> None:
        if time.monotonic() - self._last >= self.EVERY:
            self._last = time.monotonic()
            counted = {**asdict(now), "seconds": round(now.seconds, 1)}
            sys.stderr.write(json.dumps({"event": "capture", **counted, **rates(now)}) + "\n")


def rates(now: "CaptureProgress") -> dict[str, float | None]:
    """The speed of reading, and the seconds left of this call."""
    left = now.seconds_left
    return {
        "rows_per_second": round(now.rows_per_second, 2),
        "tokens_per_second": round(now.tokens_per_second, 1),
        "seconds_left": None if left is None else round(left, 1),
    }


def told(now: "CaptureProgress") -> str:
    """Progress of reading for people, short enough for a terminal of 80 columns."""
    said = [f"{now.what.replace('_', ' ')} {now.rows:,}/{now.total:,}"]
    if now.rows > now.cached:
        speed = now.rows_per_second
        said.append(f"{speed:,.0f} rows/s" if speed >= 100 else f"{speed:.1f} rows/s")
    elif now.cached:
        said.append(f"{now.cached:,} from the cache")
    if now.seconds_left:
        minutes, seconds = divmod(round(now.seconds_left), 60)
        hours, minutes = divmod(minutes, 60)
        said.append(
            f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left"
        )
    return ", ".join(said)


class StageLeft(TimeRemainingColumn):
    """The time left of all stages; nothing while reading, which tells its own."""

    def render(self, task: "Task") -> Text:
        return Text() if task.fields.get("reading") else super().render(task)


@contextmanager
def stages(*, quiet: bool = False) -> Iterator[Stages]:
    """Shows the progress of what runs inside."""
    columns = (
        TextColumn("{task.description}", justify="left", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        StageLeft(table_column=Column(no_wrap=True)),
    )
    hidden = quiet or not err.is_terminal
    console = Console(stderr=True, quiet=hidden)
    with Progress(*columns, console=console, disable=hidden, transient=True) as progress:
        yield Stages(progress)
