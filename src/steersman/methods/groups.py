"""Rows that belong together: a split or a resample that parts them would count them twice."""

import json
from collections.abc import Hashable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from steersman.core.errors import DataError
from steersman.data.images import image_hash
from steersman.data.rows import Json, Row


def linked(keys: Sequence[Iterable[Hashable]]) -> list[int]:
    """A number for each item, the same for items that share a key, directly or through others.

    Numbers count up in the order of the items.
    """
    place: dict[Hashable, int] = {}
    edges = [(i, place.setdefault(key, len(place))) for i, item in enumerate(keys) for key in item]
    if not edges:
        return list(range(len(keys)))
    item, key = np.array(edges).T
    size = len(keys) + len(place)
    graph = coo_array((np.ones(len(item)), (item, key + len(keys))), shape=(size, size))
    found = connected_components(graph, directed=False)[1][: len(keys)]
    number: dict[int, int] = {}
    return [number.setdefault(int(component), len(number)) for component in found]


def row_groups(rows: Sequence[Row], labels: Sequence[str] = ()) -> list[int]:
    """The group of each row: rows with one image, or one value of `labels`, or of `labels.pair`."""
    return linked([{*image_key(row), *label_keys(row, ("pair", *labels))} for row in rows])


def members(group: Sequence[int]) -> list[list[int]]:
    """Indices of the items of each group, in the order in which groups come up."""
    found: dict[int, list[int]] = {}
    for i, name in enumerate(group):
        found.setdefault(name, []).append(i)
    return list(found.values())


def label_keys(row: Row, names: Iterable[str]) -> set[tuple[str, str]]:
    """The labels of a row among `names`, as keys."""
    return {(name, as_key(row.labels[name])) for name in names if name in row.labels}


def image_key(row: Row) -> set[tuple[str, str]]:
    """The image of a row as a key, by its bytes; empty without an image.

    Raises:
        DataError: the file cannot be read.
    """
    if row.image is None:
        return set()
    made = _file_hash(row.image) if isinstance(row.image, Path) else image_hash(row.image)
    return {("image", made)}


def as_key(value: Json) -> str:
    """A label's value as text that is equal where the values are."""
    return json.dumps(value, sort_keys=True)


def _file_hash(path: Path) -> str:
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"the image {path} cannot be read ({error}). Correct the path.") from error
