"""One name for every kind of source."""

from pathlib import Path

from steersman.data.folder import load_folder
from steersman.data.hub import load_dataset_rows
from steersman.data.rows import Dataset

HUB = "hub:"


def load(source: str | Path, split: str | None = None) -> Dataset:
    """A dataset from a folder, or from the hub with `hub:owner/name`.

    Args:
        split: a split of a hub dataset; of a folder, the sub-folder of that name.

    Raises:
        DataError: it cannot be read; lists what is wrong and the cure.
        MissingExtraError: a hub dataset needs the package `datasets`.
    """
    if str(source).startswith(HUB):
        return load_dataset_rows(str(source).removeprefix(HUB), split=split)
    return load_folder(Path(source) / split if split else source)
