"""Small dataset folders, written as a user would write them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from steersman.data import Dataset, load_folder

WriteFolder = Callable[..., Path]


def picture(colour: tuple[int, int, int] = (200, 30, 40)) -> Image.Image:
    """An 8 x 6 image with an edge in it."""
    image = Image.new("RGB", (8, 6), colour)
    image.putpixel((1, 2), (0, 255, 0))
    return image


@pytest.fixture
def write_folder(tmp_path: Path) -> WriteFolder:
    """Writes `pairs.jsonl` from objects, raw text or bytes, beside an image `a.png`."""

    def write(*lines: object, name: str = "mine", meta: str | None = None) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        picture().save(folder / "a.png")
        raw = [line if isinstance(line, (str, bytes)) else json.dumps(line) for line in lines]
        encoded = [line if isinstance(line, bytes) else line.encode() for line in raw]
        (folder / "pairs.jsonl").write_bytes(b"".join(line + b"\n" for line in encoded))
        if meta is not None:
            (folder / "dataset.json").write_text(meta)
        return folder

    return write


@pytest.fixture
def sample(write_folder: WriteFolder) -> Dataset:
    """Three rows that use every key between them."""
    return load_folder(
        write_folder(
            {
                "id": "cat",
                "prompt": "Is there a cat?",
                "image": "a.png",
                "behaviour": "honest",
                "answer": "Yes",
                "labels": {"split": "random", "count": 2},
            },
            {"id": "héllo/..", "prompt": "Say hello\nto {me}.", "system": "Be kind."},
            {"id": "own", "prompt": "Hi", "positive": "Hello!", "negative": "Go away."},
            meta='{"suite": "pope"}',
        )
    )
