"""Writes files whole or not at all, and says so in one sentence when the disk refuses."""

import os
import tempfile
from pathlib import Path

from steersman.core.errors import StorageError


def storage_error(path: Path, error: OSError) -> StorageError:
    """What to raise when `path` cannot be written."""
    return StorageError(
        f"{path} could not be written ({error.strerror or error}). What was there before is "
        "untouched. Free some space or choose another place, and run the same command again."
    )


def replace_file(path: Path, content: str) -> Path:
    """Puts a UTF-8 file at `path`, making the folders above it.

    Raises:
        StorageError: the disk refused; what was at `path` is untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise storage_error(path, error) from error
    return path
