"""The documented format: a folder with `pairs.jsonl`, images, and an optional `dataset.json`.

my-data/
  pairs.jsonl      one JSON object a line; `rows.py` lists the keys
  images/a.png     wherever you like inside the folder; rows name them by relative path
  dataset.json     free JSON object: what the data is, and what an evaluation needs to know
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

from steersman.core.errors import DataError, StorageError
from steersman.data.images import image_hash, open_image
from steersman.data.rows import (
    Dataset,
    Json,
    Row,
    RowModel,
    content_hash,
    raise_problems,
    read_row,
)

PAIRS = "pairs.jsonl"
META = "dataset.json"
IMAGES = "images"


def load_folder(path: str | Path) -> Dataset:
    """Reads a dataset folder, checks every row and decodes every image once.

    Raises:
        DataError: lists the first ten problems, each with its line and cure.
    """
    folder = Path(path)
    pairs = folder / PAIRS
    lines = _lines(folder)
    reading = _Reading(folder.resolve())
    for number, line in lines:
        reading.add(number, line)
    if not lines:
        raise DataError(f"{pairs} has no rows. Write one JSON object a line.")
    raise_problems(pairs, reading.problems)
    digest = content_hash(reading.rows, reading.hashes)
    return Dataset(tuple(reading.rows), _meta(folder), digest, str(folder))


def save_folder(dataset: Dataset, path: str | Path) -> None:
    """Writes a dataset folder in one step: complete, or not at all.

    Image files are copied, images in memory are written as PNG. A dataset folder that is already
    there is replaced once the new one is complete.

    Raises:
        DataError: an image cannot be read any more.
        StorageError: the disk refused, or something else than a dataset is in the way.
    """
    target = Path(os.path.abspath(path))
    _refuse_foreign(target)
    draft = target.with_name(f".{target.name}.{token_hex(4)}.partial")
    try:
        (draft / IMAGES).mkdir(parents=True)
        _write(dataset, draft)
        _swap(draft, target)
    except OSError as error:
        raise StorageError(
            f"The dataset could not be written to {target} ({error.strerror or error}). What was "
            "there before is untouched. Free some space or choose another folder."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@dataclass(slots=True)
class _Reading:
    """What has been read of a folder so far."""

    folder: Path
    rows: list[Row] = field(default_factory=list[Row])
    hashes: list[str | None] = field(default_factory=list[str | None])
    problems: list[str] = field(default_factory=list[str])
    first_line: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, number: int, line: bytes) -> None:
        """Takes one line in, or notes what is wrong with it."""
        try:
            record = _parse(line)
        except (ValueError, RecursionError) as error:
            self._note(number, None, f"this is not JSON ({error}). Correct the line.")
            return
        model, problems = read_row(record)
        name = record.get("id") if isinstance(record, dict) else None
        if isinstance(name, str) and name:
            problems += self._duplicate(number, name)
        if model is not None and not problems:
            try:
                image = self._image(model)
                self.hashes.append(image and image_hash(open_image(image)))
                self.rows.append(model.row(image))
            except DataError as error:
                problems = [str(error)]
        for problem in problems:
            self._note(number, name, problem)

    def _duplicate(self, number: int, name: str) -> list[str]:
        first = self.first_line.setdefault(name, number)
        if first == number:
            return []
        return [f"the id is taken by line {first}. Give each row its own id."]

    def _image(self, model: RowModel) -> Path | None:
        if model.image is None:
            return None
        if not isinstance(model.image, str) or not model.image.strip():
            raise DataError("image is not a path. Write a path inside the folder, or leave it out.")
        path = Path(model.image)
        try:
            inside = (self.folder / path).resolve().is_relative_to(self.folder)
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"the image path {model.image!r} is unusable ({error}).") from error
        if path.is_absolute() or ".." in path.parts or not inside:
            raise DataError(
                f"the image {model.image} lies outside of the folder. Copy it into the folder and "
                "give its path relative to it."
            )
        return self.folder / path

    def _note(self, number: int, name: object, problem: str) -> None:
        who = f" (id {name!r})" if isinstance(name, str) else ""
        self.problems.append(f"line {number}{who}: {problem}")


def _lines(folder: Path) -> list[tuple[int, bytes]]:
    """The lines of `pairs.jsonl` that are not blank, with their numbers."""
    pairs = folder / PAIRS
    what = f"A dataset is a folder with {PAIRS} and the images that it names."
    if not folder.exists():
        raise DataError(f"There is no folder {folder}. {what} Correct the path.")
    if not folder.is_dir():
        raise DataError(f"{folder} is a file. {what} Give the folder.")
    if not pairs.is_file():
        near = sorted(child.parent.name for child in folder.glob(f"*/{PAIRS}"))
        hint = f" Choose one of its folders: {', '.join(near)}." if near else ""
        raise DataError(f"{folder} has no {PAIRS}. {what}{hint}")
    try:
        content = pairs.read_bytes()
    except OSError as error:
        raise DataError(f"{pairs} cannot be read ({error.strerror}). Check its rights.") from error
    content = content.removeprefix(b"\xef\xbb\xbf")  # the mark some editors put first
    return [(i, line) for i, line in enumerate(content.split(b"\n"), 1) if line.strip()]


def _meta(folder: Path) -> dict[str, Json]:
    path = folder / META
    if not path.exists():
        return {}
    try:
        meta = _parse(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not JSON ({error}). Correct it, or remove the file: it is optional."
        ) from error
    if not isinstance(meta, dict):
        raise DataError(f"{path} is not a JSON object. Write {{...}}, or remove the file.")
    return meta


def _parse(text: bytes) -> Json:
    """JSON, strictly: UTF-8, no NaN, no key twice in one object, no half of a character."""
    value = json.loads(
        text.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant
    )
    json.dumps(value, ensure_ascii=False).encode()  # an escape like \ud800 alone is no text
    return value


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in made if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return made


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not a number in JSON")


def _refuse_foreign(target: Path) -> None:
    if not target.exists():
        return
    ours = {PAIRS, META, IMAGES}
    others = [] if target.is_file() else sorted({p.name for p in target.iterdir()} - ours)
    if target.is_dir() and (target / IMAGES).exists() and not (target / PAIRS).exists():
        others = [IMAGES]
    if target.is_file() or others:
        found = f"it holds {', '.join(others[:3])}" if others else "it is a file"
        raise StorageError(
            f"{target} is in the way: {found}, which is not part of a dataset and would be lost. "
            "Choose another folder, or move it away."
        )


def _write(dataset: Dataset, draft: Path) -> None:
    with (draft / PAIRS).open("w", encoding="utf-8", newline="\n") as file:
        for line in _records(dataset, draft):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    if dataset.meta:
        text = json.dumps(dict(dataset.meta), ensure_ascii=False, indent=2)
        (draft / META).write_text(text + "\n", encoding="utf-8")


def _records(dataset: Dataset, draft: Path) -> Iterator[dict[str, Json]]:
    for index, row in enumerate(dataset.rows):
        record = row.canonical()
        if row.image is not None:
            suffix = row.image.suffix.lower() if isinstance(row.image, Path) else ".png"
            record["image"] = f"{IMAGES}/{index:05d}{suffix}"
            _write_image(row, draft / record["image"])
        yield record


def _write_image(row: Row, path: Path) -> None:
    if not isinstance(row.image, Path):
        assert row.image is not None, "only rows with an image are written here"
        open_image(row.image).save(path, format="PNG")
        return
    if not row.image.is_file():
        raise DataError(f"Row {row.id!r}: the image {row.image} is gone. Put it back.")
    shutil.copyfile(row.image, path)


def _swap(draft: Path, target: Path) -> None:
    """Puts the draft in the place of the target, or leaves the target as it was."""
    if not target.exists():
        os.replace(draft, target)
        return
    old = target.with_name(f".{target.name}.{token_hex(4)}.old")
    os.replace(target, old)
    try:
        os.replace(draft, target)
    except OSError:
        os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
