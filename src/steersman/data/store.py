"""Rows that were read once, kept on disk by what they were made from: `RowStore`.

    ROOT/NAMESPACE/about.json                  which model, and in which number type
    ROOT/NAMESPACE/rows-[time].safetensors     written once, never changed

A namespace belongs to one model, with one way of computing and one number type. Any number of
processes may read and write at the same time, without locks. Where two of them wrote the same row,
a process goes on with the value that it has used before, and a new process takes the file whose
name sorts first, which is the one written first.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from steersman.core.errors import RecipeError, StorageError
from steersman.data.namespace import ABOUT, Namespace, read_about
from steersman.data.segments import SEGMENT, TEMPORARY, count_keys

FORMAT = 1  # raise it when rows of an earlier version must not be used any more
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Holding:
    """One namespace as it lies on the disk.

    Attributes:
        used: when it was last opened, in seconds since 1970.
    """

    name: str
    model: str
    numerics: str
    dtype: str
    num_rows: int
    num_bytes: int
    used: float


def default_root() -> Path:
    """$STEERSMAN_CACHE, or steersman/ in the user's cache folder."""
    if given := os.environ.get("STEERSMAN_CACHE"):
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "steersman"


class RowStore:
    """A folder of rows, by model and then by content.

    Args:
        root: the folder; `default_root()` if left out.
        dtype: how floating-point rows are kept. Rows are rounded to it before they are used for
            the first time, so that a second run sees the same numbers.
        flush_bytes: rows are written to disk when so many bytes wait,
        flush_seconds: or when the first of them has waited so long.
    """

    def __init__(
        self,
        root: Path | str | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        flush_bytes: int = 64 << 20,
        flush_seconds: float = 5.0,
    ) -> None:
        if dtype not in DTYPES.values():
            raise RecipeError(f"Rows cannot be kept as {dtype}. Choose one of {', '.join(DTYPES)}.")
        self.root = default_root() if root is None else Path(root)
        self.dtype = dtype
        self._flush = (flush_bytes, flush_seconds)
        self._opened: dict[str, Namespace] = {}
        self._lock = threading.Lock()

    def open(self, *, model: str, fingerprint: Mapping[str, str], numerics: str) -> "Namespace":
        """The rows of one model.

        Args:
            numerics: what else decides the numbers, beside who the model is.

        Raises:
            StorageError: there is no such folder yet, and it cannot be made.
        """
        dtype = str(self.dtype).removeprefix("torch.")
        identity = [FORMAT, sorted(fingerprint.items()), numerics, dtype]
        name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        about = {
            "steersman_rows": FORMAT,
            "model": model,
            "fingerprint": dict(fingerprint),
            "numerics": numerics,
            "dtype": dtype,
        }
        with self._lock:
            if name not in self._opened:
                self._opened[name] = Namespace(
                    self.root / name, about, dtype=self.dtype, flush=self._flush
                )
            return self._opened[name]

    def holdings(self) -> list[Holding]:
        """What lies on the disk, the last used first."""
        found = [_holding(folder, about) for folder, about in self._folders()]
        return sorted(found, key=lambda holding: -holding.used)

    def remove(self, name: str) -> None:
        """Deletes the rows of a namespace, and whatever else of ours is in its folder.

        Raises:
            RecipeError: there is no such namespace.
            StorageError: the disk refused.
        """
        for folder, _ in self._folders():
            if folder.name == name:
                _remove(folder)
                return
        raise RecipeError(
            f"There are no rows {name!r} in {self.root}. `steersman cache ls` lists what there is."
        )

    def flush(self) -> None:
        """Writes what waits.

        Raises:
            StorageError: the disk refused; what waits is kept, and may be written later.
        """
        for namespace in list(self._opened.values()):
            namespace.flush()

    def __enter__(self) -> "RowStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.flush()

    def _folders(self) -> Iterator[tuple[Path, Mapping[str, object]]]:
        """Folders that are ours beyond doubt; links are followed nowhere."""
        listed = sorted(self.root.iterdir()) if self.root.is_dir() else []
        for folder in listed:
            if folder.is_dir() and not folder.is_symlink():
                about = read_about(folder)
                if about is not None:
                    yield folder, about


def _holding(folder: Path, about: Mapping[str, object]) -> Holding:
    num_rows = num_bytes = 0
    used = 0.0
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):
            if SEGMENT.fullmatch(entry.name):
                num_rows += count_keys(Path(entry.path))
            if SEGMENT.fullmatch(entry.name) or entry.name == ABOUT:
                num_bytes += entry.stat().st_size
                used = max(used, entry.stat().st_mtime)
    return Holding(
        name=folder.name,
        model=str(about.get("model", "")),
        numerics=str(about.get("numerics", "")),
        dtype=str(about.get("dtype", "")),
        num_rows=num_rows,
        num_bytes=num_bytes,
        used=used,
    )


def _remove(folder: Path) -> None:
    """Deletes our own files, and the folder if nothing else is in it. What it is goes last."""
    try:
        for name in os.listdir(folder):
            if SEGMENT.fullmatch(name) or TEMPORARY.fullmatch(name):
                (folder / name).unlink(missing_ok=True)
        (folder / ABOUT).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder} could not be removed in full ({error.strerror or error}). See to its "
            "permissions and run the same command again."
        ) from error
    with suppress(OSError):  # something else is in it
        folder.rmdir()
