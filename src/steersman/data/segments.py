"""Files of rows that are written once and never changed: keys, and for each a run of rows."""

import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

KEY_BYTES = 32
KEYS, COUNTS = "keys", "counts"
SEGMENT = re.compile(r"rows-[0-9a-f]{32}\.safetensors")
TEMPORARY = re.compile(r"\.(rows|about)-[0-9a-f]{32}\.tmp")


@dataclass(frozen=True)
class Table:
    """Rows by key, in memory or mapped from a file.

    Attributes:
        counts: how many rows belong to each key.
        columns: the rows of all keys one behind the other, of shape (t,) or (t, d).
    """

    keys: Sequence[bytes]
    counts: Int[Tensor, " n"]
    columns: Mapping[str, Tensor]

    @property
    def starts(self) -> Int[Tensor, " n"]:
        """Where the run of each key begins."""
        return self.counts.cumsum(0) - self.counts

    @property
    def num_bytes(self) -> int:
        return sum(c.numel() * c.element_size() for c in self.columns.values())


class BrokenSegment(ValueError):
    """A file of rows that cannot be read."""


def runs(starts: Int[Tensor, " n"], counts: Int[Tensor, " n"]) -> Int[Tensor, " t"]:
    """The indices start, start + 1, ... of every run, one run behind the other."""
    first = starts - (counts.cumsum(0) - counts)
    return first.repeat_interleave(counts) + torch.arange(int(counts.sum()))


def joined(tables: Sequence[Table]) -> Table:
    """One table of several with the same columns."""
    if len(tables) == 1:
        return tables[0]
    return Table(
        [key for table in tables for key in table.keys],
        torch.cat([table.counts for table in tables]),
        {name: torch.cat([t.columns[name] for t in tables]) for name in tables[0].columns},
    )


def write_segment(folder: Path, table: Table) -> Path:
    """Writes the table under a new name, whole or not at all. Names sort by the time of writing.

    Raises:
        OSError: the disk refused; nothing is left of this file.
    """
    assert not {KEYS, COUNTS} & table.columns.keys()
    packed = torch.frombuffer(bytearray(b"".join(table.keys)), dtype=torch.uint8)
    tensors = {name: rows.contiguous() for name, rows in table.columns.items()}
    tensors |= {KEYS: packed.view(-1, KEY_BYTES), COUNTS: table.counts}
    path = folder / f"rows-{unique()}.safetensors"
    replace_bytes(path, save(tensors))
    return path


def unique() -> str:
    """32 hexadecimal digits that nobody else has: the time, and chance."""
    return f"{time.time_ns():016x}{secrets.token_hex(8)}"


def replace_bytes(path: Path, content: bytes) -> None:
    """Puts a file at `path`, whole or not at all, and lasting once this returns.

    Raises:
        OSError: the disk refused; what was at `path` is untouched.
    """
    kind = path.name.partition(".")[0].partition("-")[0]
    temporary = path.parent / f".{kind}-{unique()}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_segment(path: Path) -> Table:
    """The table in a file, its rows mapped and not loaded.

    Raises:
        BrokenSegment: the file is truncated, or none of ours.
        FileNotFoundError: it is gone.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError) as error:
        raise BrokenSegment(str(error)) from error
    keys, counts = tensors.pop(KEYS, None), tensors.pop(COUNTS, None)
    kinds = [None if t is None else t.dtype for t in (keys, counts)]
    if keys is None or counts is None or kinds != [torch.uint8, torch.int64]:
        raise BrokenSegment(f"it has no {KEYS} and {COUNTS}")
    fits = keys.shape == (len(counts), KEY_BYTES) and bool((counts >= 0).all())
    total = int(counts.sum())
    if not fits or any(not rows.dim() or len(rows) != total for rows in tensors.values()):
        raise BrokenSegment("its rows do not fit its keys")
    packed = keys.numpy().tobytes()
    split = [packed[i : i + KEY_BYTES] for i in range(0, len(packed), KEY_BYTES)]
    return Table(split, counts.clone(), tensors)


def count_keys(path: Path) -> int:
    """How many keys a file has, from its header alone; 0 if it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return int(file.get_slice(KEYS).get_shape()[0])
    except (SafetensorError, OSError):
        return 0
