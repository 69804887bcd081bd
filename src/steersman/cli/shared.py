"""Steps that several verbs share."""

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image

from steersman import __version__
from steersman.backends.hf import HFModel, load
from steersman.core.errors import DataError, RecipeError, nearest
from steersman.core.io import Artifact, load_artifact
from steersman.core.steerer import Policy
from steersman.data.load import load as load_data
from steersman.data.rows import Dataset

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
VERSION = __version__


def open_model(
    source: str, *, device: str = "cpu", dtype: str = "float32", batch_size: int = 32
) -> HFModel:
    """The model a verb was asked for."""
    if dtype not in DTYPES:
        raise RecipeError(f"There is no dtype {dtype!r}.{nearest(dtype, DTYPES)}")
    return load(source, device=device, dtype=DTYPES[dtype], batch_size=batch_size)


def open_policy(path: Path | None, model: HFModel, *, force: bool) -> Policy | None:
    """The policy a verb was asked for, checked against the model."""
    return None if path is None else open_artifact(path, model, force=force).policy


def open_artifact(path: Path, model: HFModel, *, force: bool) -> Artifact:
    """An artifact, checked against the model."""
    return load_artifact(path, model.spec, force=force)


def open_data(source: str, split: str | None = None, limit: int | None = None) -> Dataset:
    """Rows from a folder or the hub, the first `limit` of them."""
    return limited(load_data(source, split), limit)


def limited(data: Dataset, limit: int | None) -> Dataset:
    """The first rows.

    Raises:
        DataError: the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise DataError(f"--limit is {limit}; it must be 1 or more.")
    return data if limit is None else data.subset(limit)


def pictures(folders: Mapping[str, Path]) -> dict[tuple[str, str], Image.Image]:
    """The pictures of rows by suite and id, for a gallery; folders that are gone have none."""
    found: dict[tuple[str, str], Image.Image] = {}
    for suite, folder in folders.items():
        for row in load_data(folder).rows if folder.is_dir() else ():
            if isinstance(row.image, Path):
                with Image.open(row.image) as image:
                    found[suite, row.id] = image.convert("RGB")
    return found
