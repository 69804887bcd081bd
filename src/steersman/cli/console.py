"""What every verb prints with: results on stdout, progress on stderr and only on a terminal."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

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

    def __call__(self, stage: str, share: float) -> None:
        """Says what is being done; a share below 0 is a message to keep."""
        if share < 0:
            self._progress.console.print(f"  {stage}", style="dim", markup=False, highlight=False)
        else:
            self._progress.update(self._task, description=stage, completed=share)


@contextmanager
def stages(*, quiet: bool = False) -> Iterator[Stages]:
    """Shows the progress of what runs inside."""
    columns = (
        TextColumn("{task.description}", justify="left", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    hidden = quiet or not err.is_terminal
    console = Console(stderr=True, quiet=hidden)
    with Progress(*columns, console=console, disable=hidden, transient=True) as progress:
        yield Stages(progress)
