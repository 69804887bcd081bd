"""The rows of one model: what is kept, what waits to be written, and where each row is."""

import errno
import json
import os
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from steersman.core.errors import RecipeError, StorageError
from steersman.data.segments import (
    SEGMENT,
    TEMPORARY,
    BrokenSegment,
    Table,
    joined,
    open_segment,
    replace_bytes,
    runs,
    write_segment,
)

ABOUT = "about.json"
DAY = 24 * 3600.0
NO_SPACE = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


class Rows(NamedTuple):
    """What is kept under some keys, in their order.

    Attributes:
        counts: rows of each key.
        columns: float32, or whole numbers where those were given.
    """

    counts: Int[Tensor, " n"]
    columns: Mapping[str, Tensor]


class Namespace:
    """The rows of one model. All methods may be called from any thread."""

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, object],
        *,
        dtype: torch.dtype,
        flush: tuple[int, float],
    ) -> None:
        self.folder = folder
        self._about = about
        self._dtype = dtype
        self._flush_bytes, self._flush_seconds = flush
        self._lock = threading.RLock()
        self._tables: list[Table | None] = []
        self._index: dict[bytes, list[tuple[int, int]]] = {}  # key: (table, row), first used first
        self._waiting: list[int] = []  # tables that are not on the disk yet
        self._since = 0.0
        self._seen: set[str] = set()
        if folder.is_dir() and read_about(folder) is not None:
            with suppress(OSError):  # a cache on a read-only disk may be used
                os.utime(folder / ABOUT)
        else:
            self._make_folder()
        _sweep(folder)
        self.refresh()

    def refresh(self) -> None:
        """Takes up what other processes have written since."""
        with self._lock:
            present = os.listdir(self.folder) if self.folder.is_dir() else []
            for name in sorted(n for n in present if SEGMENT.fullmatch(n) and n not in self._seen):
                try:
                    self._enter(open_segment(self.folder / name))
                except FileNotFoundError:  # another process removed it
                    continue
                except BrokenSegment as error:
                    warnings.warn(
                        f"{self.folder / name} cannot be read ({error}) and is left out: its rows "
                        "are read from the model again. Delete the file to be rid of this warning.",
                        stacklevel=2,
                    )
                self._seen.add(name)

    def holds(self, keys: Sequence[bytes], columns: Sequence[str]) -> list[bool]:
        """For each key, whether all these columns are kept."""
        with self._lock:
            return [all(self._find(key, c) is not None for c in columns) for key in keys]

    def read(self, keys: Sequence[bytes], columns: Sequence[str]) -> Rows:
        """What is kept under these keys, all of which must be."""
        assert keys and columns
        with self._lock:
            made: dict[str, Tensor] = {}
            counts = torch.zeros(0, dtype=torch.long)
            for column in columns:
                counts, made[column] = self._read_column(keys, column)
            return Rows(counts, made)

    def add(
        self, keys: Sequence[bytes], counts: Int[Tensor, " n"], columns: Mapping[str, Tensor]
    ) -> Rows:
        """Keeps rows, and returns them as `read` will from now on.

        Rounded, that is; and what was kept before under a key stays.

        Args:
            keys: 32 bytes each, no two of them alike.

        Raises:
            RecipeError: a number is too large for the number type that rows are kept in.
            StorageError: the disk refused. What is on it stays, and what waits is kept.
        """
        assert len(set(keys)) == len(keys) == len(counts)
        starts = counts.cumsum(0) - counts
        with self._lock:
            fresh: dict[tuple[str, ...], list[int]] = {}
            for i, key in enumerate(keys):
                if new := tuple(c for c in columns if self._find(key, c) is None):
                    fresh.setdefault(new, []).append(i)
            tables: list[Table] = []
            for new, picked in fresh.items():
                chosen = runs(starts[picked], counts[picked])
                rows = {name: self._stored(columns[name][chosen]) for name in new}
                tables.append(Table([keys[i] for i in picked], counts[picked], rows))
            if tables and not self._waiting:
                self._since = time.monotonic()
            for table in tables:
                self._waiting.append(self._enter(table))
            kept = self.read(keys, list(columns)) if keys else Rows(counts, columns)
            if self._due():
                self.flush()
            return kept

    def flush(self) -> None:
        """Writes what waits, one file for each set of columns.

        Raises:
            StorageError: the disk refused. What is on it stays, and what waits is kept.
        """
        with self._lock:
            groups: dict[tuple[str, ...], list[int]] = {}
            for number in self._waiting:
                groups.setdefault(tuple(sorted(self._table(number).columns)), []).append(number)
            for numbers in groups.values():
                self._write(numbers)

    def _due(self) -> bool:
        waiting = sum(self._table(number).num_bytes for number in self._waiting)
        late = time.monotonic() - self._since >= self._flush_seconds
        return bool(self._waiting) and (late or waiting >= self._flush_bytes)

    def _write(self, numbers: Sequence[int]) -> None:
        """Puts waiting tables on the disk; from now on they are read from there."""
        whole = joined([self._table(number) for number in numbers])
        path = self._written(whole)
        self._seen.add(path.name)
        with suppress(FileNotFoundError):  # removed already: the rows stay in memory
            whole = open_segment(path)
        number, row = len(self._tables), 0
        self._tables.append(whole)
        for old in numbers:
            for i, key in enumerate(self._table(old).keys):
                places = self._index[key]
                places[places.index((old, i))] = (number, row)
                row += 1
            self._tables[old] = None
            self._waiting.remove(old)

    def _written(self, table: Table) -> Path:
        try:
            with suppress(FileNotFoundError):
                if read_about(self.folder) is not None:
                    return write_segment(self.folder, table)
            self._make_folder()  # another process removed it
            return write_segment(self.folder, table)
        except OSError as error:
            raise refused(self.folder.parent, error) from error

    def _make_folder(self) -> None:
        try:
            # What a model makes of somebody's data is as private as the data.
            self.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.folder.mkdir(exist_ok=True)
            replace_bytes(self.folder / ABOUT, json.dumps(self._about, indent=2).encode())
        except OSError as error:
            raise refused(self.folder.parent, error) from error

    def _stored(self, rows: Tensor) -> Tensor:
        if not rows.is_floating_point():
            return rows
        stored = rows.to(self._dtype)
        lost = stored.isinf() & rows.isfinite()
        if bool(lost.any()):
            raise RecipeError(
                f"A state of the model reaches {float(rows[lost].abs().max()):.3g}, and "
                f"{self._dtype} holds no such number. Keep rows as bfloat16 or float32: "
                "--cache-dtype bfloat16."
            )
        return stored

    def _enter(self, table: Table) -> int:
        number = len(self._tables)
        self._tables.append(table)
        for row, key in enumerate(table.keys):
            self._index.setdefault(key, []).append((number, row))
        return number

    def _table(self, number: int) -> Table:
        table = self._tables[number]
        assert table is not None
        return table

    def _find(self, key: bytes, column: str) -> tuple[int, int] | None:
        for place in self._index.get(key, ()):
            if column in self._table(place[0]).columns:
                return place
        return None

    def _read_column(self, keys: Sequence[bytes], column: str) -> tuple[Int[Tensor, " n"], Tensor]:
        by_table: dict[int, tuple[list[int], list[int]]] = {}
        for i, key in enumerate(keys):
            place = self._find(key, column)
            assert place is not None, "only what is held can be read"
            wanted, rows = by_table.setdefault(place[0], ([], []))
            wanted.append(i)
            rows.append(place[1])
        counts = torch.zeros(len(keys), dtype=torch.long)
        for number, (wanted, rows) in by_table.items():
            counts[wanted] = self._table(number).counts[rows]
        starts = counts.cumsum(0) - counts
        like = self._table(next(iter(by_table))).columns[column]
        dtype = torch.float32 if like.is_floating_point() else like.dtype
        made = torch.empty(int(counts.sum()), *like.shape[1:], dtype=dtype)
        for number, (wanted, rows) in by_table.items():
            table = self._table(number)
            source = table.columns[column][runs(table.starts[rows], table.counts[rows])]
            made[runs(starts[wanted], counts[wanted])] = source.to(dtype)
        return counts, made


def read_about(folder: Path) -> Mapping[str, object] | None:
    """What a folder says of itself; None if it is none of ours."""
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) and "steersman_rows" in about else None


def _sweep(folder: Path) -> None:
    """Removes what processes that were killed left behind, more than a day ago."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            if TEMPORARY.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > DAY:
                os.unlink(entry.path)


def refused(root: Path, error: OSError) -> StorageError:
    """What to say when nothing can be written in the folder that was chosen."""
    elsewhere = "another folder (--cache DIR, or $STEERSMAN_CACHE) or none (--no-cache)"
    if blocking := in_the_way(root):
        return StorageError(
            f"Rows cannot be kept in {root}: {blocking} is a file. Choose {elsewhere}."
        )
    why = error.strerror or str(error)
    if error.errno in NO_SPACE:
        return StorageError(
            f"The row cache {root} could not be written ({why}): free some space, if need be with "
            f"`steersman cache rm`, or choose {elsewhere}, and run the same command again. Rows "
            "that were saved stay saved."
        )
    if not os.path.exists(root):
        above = next(p for p in root.absolute().parents if os.path.exists(p))
        why = f"{why}: no folder can be made in {above}"
    return StorageError(
        f"The row cache {root} cannot be written ({why}). Choose {elsewhere}, and run the same "
        "command again. Rows that were saved stay saved."
    )


def in_the_way(root: Path) -> Path | None:
    """The file that stands where a folder should, if there is one."""
    for path in (root, *root.parents):
        if os.path.exists(path):
            return None if os.path.isdir(path) else path
    return None
