"""`steersman cache`, and the options by which other verbs choose their cache."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from steersman.cli.console import err, print_json, say
from steersman.core.errors import RecipeError, StorageError, nearest
from steersman.data.namespace import in_the_way, refused
from steersman.data.store import DTYPES, Holding, RowStore

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True)
class CacheChoice:
    """What was asked for on the command line.

    Attributes:
        dtype: None is float32.
    """

    folder: Path | None = None
    dtype: str | None = None
    off: bool = False

    def open(self) -> RowStore | None:
        """The row store, or None if there shall be none.

        Raises:
            RecipeError: the choices exclude each other, or there is no such dtype.
            StorageError: nothing can be kept in the folder, and nothing is.
        """
        if self.off:
            if self.folder is not None or self.dtype is not None:
                given = "--cache" if self.folder is not None else "--cache-dtype"
                raise RecipeError(f"--no-cache and {given} exclude each other. Give one of them.")
            return None
        dtype = self.dtype or "float32"
        if dtype not in DTYPES:
            raise RecipeError(f"Rows cannot be kept as {dtype!r}.{nearest(dtype, DTYPES)}")
        store = RowStore(self.folder, dtype=DTYPES[dtype])
        _check_writable(store)
        return store


@contextmanager
def stoppable(store: RowStore | None) -> Iterator[None]:
    """Ctrl-C inside ends the program with status 130, and says what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        if store is None:
            err.print("Stopped.")
        else:
            store.flush()
            err.print("Stopped. What was read is kept; run the same command to go on.")
        raise typer.Exit(130) from None


def run_ls(folder: Path | None, *, as_json: bool) -> None:
    """Lists what is kept: one line for each model, number type and way of computing."""
    store = _listed(folder)
    held = store.holdings()
    if as_json:
        print_json({"root": str(store.root), "namespaces": [asdict(one) for one in held]})
        return
    if not held:
        say(f"Nothing is kept in {store.root}.")
        return
    head = ("namespace", "model", "numerics", "kept as", "rows", "size", "last used")
    lines = [head] + [
        (h.name, h.model, h.numerics, h.dtype, f"{h.num_rows:,}", size(h.num_bytes), _ago(h.used))
        for h in held
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        say("  ".join(cells).rstrip())


def run_du(folder: Path | None, *, as_json: bool) -> None:
    """Prints how much room the rows take."""
    store = _listed(folder)
    held = store.holdings()
    total = sum(one.num_bytes for one in held)
    if as_json:
        each = {one.name: one.num_bytes for one in held}
        print_json({"root": str(store.root), "bytes": total, "namespaces": each})
        return
    for one in held:
        say(f"{size(one.num_bytes):>8}  {one.name}  {one.model}")
    say(f"{size(total):>8}  {store.root}")


def run_rm(
    folder: Path | None, names: Sequence[str], *, every: bool, yes: bool, as_json: bool
) -> None:
    """Deletes rows, after asking.

    Raises:
        RecipeError: it is not clear what to delete.
        StorageError: the disk refused.
    """
    if bool(names) == every:
        raise RecipeError(
            "Give namespaces, which `steersman cache ls` lists, or --all: one of both."
        )
    if as_json and not yes:
        raise RecipeError("--json asks no questions. Give --yes, too.")
    store = _listed(folder)
    held = {one.name: one for one in store.holdings()}
    for name in names:
        if name not in held:
            raise RecipeError(
                f"There are no rows {name!r} in {store.root}.{nearest(name, held)} "
                "`steersman cache ls` tells what they are."
            )
    chosen: list[Holding] = [held[name] for name in dict.fromkeys(names)] or list(held.values())
    total = sum(one.num_bytes for one in chosen)
    if chosen and not yes:
        for one in chosen:
            say(f"{size(one.num_bytes):>8}  {one.name}  {one.model}, {one.num_rows:,} rows")
        typer.confirm(f"Delete {size(total)} in {store.root}?", abort=True)
    for one in chosen:
        store.remove(one.name)
    if as_json:
        removed = [one.name for one in chosen]
        print_json({"root": str(store.root), "removed": removed, "bytes": total})
        return
    say(f"Deleted {size(total)} in {store.root}.")


def size(num_bytes: int) -> str:
    """Bytes for people, in powers of 1000: "1.2 GB"."""
    power, left = 0, float(num_bytes)
    while left >= 999.5 and power < len(UNITS) - 1:
        power, left = power + 1, left / 1000
    return (
        f"{left:.0f} {UNITS[power]}" if power == 0 or left >= 99.5 else f"{left:.1f} {UNITS[power]}"
    )


def _check_writable(store: RowStore) -> None:
    try:
        store.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=store.root):
            pass
    except OSError as error:
        is_readable = os.path.isdir(store.root) and os.access(store.root, os.R_OK | os.X_OK)
        if not is_readable or not store.holdings():  # rows of a read-only disk may be used
            raise refused(store.root, error) from error


def _listed(folder: Path | None) -> RowStore:
    store = RowStore(folder)
    try:
        os.listdir(store.root)
    except FileNotFoundError:  # nothing was kept yet
        pass
    except OSError as error:
        what = in_the_way(store.root)
        why = f"{what} is a file" if what else error.strerror or error
        raise StorageError(
            f"{store.root} cannot be listed ({why}). Give the folder that rows are kept in: "
            "--cache DIR."
        ) from error
    return store


def _ago(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))
