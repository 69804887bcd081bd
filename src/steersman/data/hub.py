"""The same rows through Hugging Face `datasets`: from memory, a path or the hub."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from PIL import Image

from steersman.core.errors import DataError, MissingExtraError, nearest
from steersman.data.images import image_hash, open_image
from steersman.data.rows import Dataset, Json, Row, content_hash, raise_problems, read_row

if TYPE_CHECKING:
    import datasets


def load_dataset_rows(
    source: "str | datasets.Dataset | datasets.DatasetDict", *, split: str | None = None
) -> Dataset:
    """Rows with the columns that `rows.py` lists; `image` is an image column.

    Args:
        source: a dataset in memory, or what `datasets.load_dataset` takes: a path or a hub id.
        split: which split; needed when there are several.

    Raises:
        MissingExtraError: `datasets` is not installed.
        DataError: it cannot be loaded, has no such split, or rows are wrong.
    """
    name = source if isinstance(source, str) else "datasets.Dataset"
    loaded = _load(source) if isinstance(source, str) else source
    table = _choose(loaded, name, split)
    reading = _Reading()
    for number in range(1, len(table) + 1):
        reading.add(number, _record(table, number, name))
    raise_problems(name, reading.problems)
    if not reading.rows:
        raise DataError(f"{name} has no rows. Choose another split or dataset.")
    digest = content_hash(reading.rows, reading.hashes)
    return Dataset(tuple(reading.rows), {}, digest, name)


@dataclass(slots=True)
class _Reading:
    """What has been read of a table so far."""

    rows: list[Row] = field(default_factory=list[Row])
    hashes: list[str | None] = field(default_factory=list[str | None])
    problems: list[str] = field(default_factory=list[str])
    first_row: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, number: int, record: Mapping[str, Json]) -> None:
        """Takes one record in, or notes what is wrong with it."""
        model, problems = read_row(record)
        image = record.get("image")
        if image is not None and not isinstance(image, Image.Image):
            problems.append(
                "image is no image column. Cast it with cast_column('image', datasets.Image()), "
                "or download the folder and give its path."
            )
        if model is not None and self.first_row.setdefault(model.id, number) != number:
            first = self.first_row[model.id]
            problems.append(f"the id is taken by row {first}. Give each row its own id.")
        self.problems += [f"row {number} (id {record.get('id')!r}): {p}" for p in problems]
        if model is not None and not problems:
            rgb = None if image is None else open_image(image)
            self.rows.append(model.row(rgb))
            self.hashes.append(None if rgb is None else image_hash(rgb))


def _library() -> ModuleType:
    try:
        return import_module("datasets")
    except ImportError as error:
        raise MissingExtraError(
            "Reading Hugging Face datasets needs the package `datasets`, which is not installed. "
            "Run: pip install 'steersman[data]'"
        ) from error


def _record(table: "datasets.Dataset", number: int, name: str) -> dict[str, Json]:
    try:
        return table[number - 1]
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{name}, row {number}: it cannot be decoded ({error}). Correct the row's image."
        ) from error


def _load(source: str) -> "datasets.Dataset | datasets.DatasetDict":
    library = _library()
    try:
        return library.load_dataset(source)
    except (OSError, ValueError, library.exceptions.DatasetsError) as error:
        raise DataError(
            f"{source} could not be loaded by `datasets` ({error}). Check the name, the network "
            "and your access."
        ) from error


def _choose(
    loaded: "datasets.Dataset | datasets.DatasetDict", name: str, split: str | None
) -> "datasets.Dataset":
    if not isinstance(loaded, dict):  # a DatasetDict is a dict of splits
        own = None if loaded.split is None else str(loaded.split)
        if split not in (None, own):
            raise DataError(f"{name} is one split ({own}), not {split!r}. Leave the split out.")
        return loaded
    splits = {str(key): table for key, table in loaded.items()}
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split is None:
        raise DataError(f"{name} has several splits: {', '.join(splits)}. Name one.")
    if split not in splits:
        raise DataError(f"{name} has no split {split!r}.{nearest(split, splits)}")
    return splits[split]
