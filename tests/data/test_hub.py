"""The same rows through `datasets`: from memory, from our folder, and what goes wrong."""

import sys

import pytest

from steersman.core.errors import DataError, MissingExtraError
from steersman.data import Dataset, Row, load, load_dataset_rows, load_folder, save_folder
from steersman.data.images import open_image

datasets = pytest.importorskip("datasets")


def table(**columns: list[object]):
    """Two rows, of which the columns given are replaced or added; None takes one away."""
    base = {"id": ["a", "b"], "prompt": ["x", "y"]}
    return datasets.Dataset.from_dict({k: v for k, v in {**base, **columns}.items() if v})


def test_datasets_reads_the_folder_format(sample, tmp_path):
    folder = tmp_path / "plain"
    save_folder(sample.where(lambda row: row.image is None), folder)
    read = datasets.load_dataset(
        "json", data_files=str(folder / "pairs.jsonl"), cache_dir=str(tmp_path / "cache")
    )
    ours = load_folder(folder)
    theirs = load_dataset_rows(read)
    assert theirs.rows == ours.rows and theirs.hash == ours.hash


def test_images_and_labels_come_through_with_the_same_hash(sample):
    record = [row.canonical() for row in sample]
    keys = sorted({key for row in record for key in row})
    columns = {key: [row.get(key) for row in record] for key in keys}
    columns["image"] = [row.image and open_image(row.image) for row in sample]
    loaded = load_dataset_rows(datasets.Dataset.from_dict(columns))
    assert loaded.hash == sample.hash
    assert loaded.rows[0].image.mode == "RGB" and loaded.rows[1].image is None


def test_a_split_is_chosen_or_asked_for():
    splits = datasets.DatasetDict({"fit": table(), "test": table(prompt=["p", "q"])})
    assert load_dataset_rows(splits, split="test").rows[0].prompt == "p"
    with pytest.raises(DataError, match="several splits: fit, test. Name one"):
        load_dataset_rows(splits)
    with pytest.raises(DataError, match="no split 'tset'. Did you mean 'test'"):
        load_dataset_rows(splits, split="tset")
    with pytest.raises(DataError, match="is one split"):
        load_dataset_rows(table(), split="test")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": ["x", ""]}, r"row 2 \(id 'b'\): prompt is empty"),
        ({"promt": ["x", "y"]}, "'promt' is unknown. Did you mean 'prompt'"),
        ({"id": ["a", "a"]}, "row 2.*taken by row 1"),
        ({"image": ["a.png", "b.png"]}, "row 1.*no image column. Cast it"),
        ({"id": [], "prompt": []}, "has no rows"),
    ],
)
def test_a_wrong_row_is_named(columns, message):
    with pytest.raises(DataError, match=message):
        load_dataset_rows(table(**columns))


def test_a_broken_image_is_named():
    columns = {"id": ["a"], "prompt": ["x"], "image": [{"bytes": b"no image", "path": None}]}
    broken = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    with pytest.raises(DataError, match="row 1: it cannot be decoded.*Correct the row's image"):
        load_dataset_rows(broken)


def test_load_takes_a_folder_or_a_hub_name(write_folder, monkeypatch):
    asked: list[str] = []

    def load_dataset(name: str):
        asked.append(name)
        return datasets.DatasetDict({"fit": table()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load("hub:owner/name", "fit").rows == (Row("a", "x"), Row("b", "y"))
    assert asked == ["owner/name"]
    assert isinstance(load(write_folder({"id": "a", "prompt": "x"})), Dataset)


def test_a_name_that_cannot_be_loaded_says_so(tmp_path, monkeypatch):
    def refuse(name: str):
        raise datasets.exceptions.DatasetNotFoundError(f"{name} doesn't exist")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match="owner/name could not be loaded.*Check the name"):
        load("hub:owner/name")


def test_without_datasets_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'steersman\[data\]'"):
        load("hub:owner/name")
