"""Writing a folder: what comes back, what the hash sees, and that nothing is ever lost."""

import errno
import os
import stat
from pathlib import Path

import pytest
from PIL import Image

from steersman.core.errors import DataError, StorageError
from steersman.data import Dataset, Row, load_folder, save_folder


def noisy() -> Image.Image:
    return Image.effect_noise((16, 16), 60).convert("RGB")


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_saved_folder_reads_back_the_same(sample, tmp_path):
    save_folder(sample, tmp_path / "copy")
    copy = load_folder(tmp_path / "copy")
    assert copy.hash == sample.hash and copy.meta == sample.meta
    assert [row.canonical() for row in copy] == [row.canonical() for row in sample]
    assert sorted(os.listdir(tmp_path)) == ["copy", "mine"]


def test_images_in_memory_are_written_without_loss(tmp_path):
    dataset = Dataset.of([Row("a", "What?", noisy()), Row("b", "And this?", noisy())])
    save_folder(dataset, tmp_path / "out")
    assert load_folder(tmp_path / "out").hash == dataset.hash


def test_a_saved_folder_has_the_usual_rights(sample, tmp_path):
    (tmp_path / "usual").mkdir()
    save_folder(sample, tmp_path / "copy")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "copy")]
    assert modes[0] == modes[1]


def test_the_hash_is_of_content_not_of_paths(write_folder):
    row = {"id": "a", "prompt": "x", "image": "a.png"}
    here, there = write_folder(row, name="here"), write_folder(row, name="there")
    (there / "a.png").rename(there / "b.png")
    (there / "pairs.jsonl").write_text('{"image": "b.png", "prompt": "x", "id": "a"}')
    assert load_folder(here).hash == load_folder(there).hash


def test_the_hash_sees_one_pixel_one_letter_and_the_order():
    image = noisy()
    changed = image.copy()
    r, g, b = image.getpixel((3, 3))
    changed.putpixel((3, 3), (r ^ 1, g, b))
    first, second = Row("a", "x", image), Row("b", "y")
    datasets = [
        Dataset.of([first, second]),
        Dataset.of([Row("a", "x", changed), second]),
        Dataset.of([Row("a", "x.", image), second]),
        Dataset.of([Row("a", "x"), second]),
        Dataset.of([second, first]),
        Dataset.of([first, Row("b", "y", labels={"k": 1})]),
    ]
    assert len({dataset.hash for dataset in datasets}) == len(datasets)
    assert Dataset.of([first, second]).hash == datasets[0].hash


def test_subset_and_where_have_their_own_hash(sample):
    assert [row.id for row in sample.subset(2)] == ["cat", "héllo/.."]
    kept = sample.where(lambda row: row.behaviour == "none")
    assert len(kept) == 2 and kept.meta == sample.meta and kept.hash != sample.hash
    assert sample.where(lambda row: True).hash == sample.hash


def test_a_folder_that_is_there_is_replaced_as_a_whole(sample, tmp_path):
    save_folder(sample, tmp_path / "out")
    save_folder(sample.where(lambda row: row.image is None), tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == ["dataset.json", "pairs.jsonl"]
    assert sorted(os.listdir(tmp_path)) == ["mine", "out"]


@pytest.mark.parametrize("where", ["shutil.copyfile", "os.replace", "json.dumps"])
@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_loses_nothing(sample, tmp_path, monkeypatch, where, there):
    out = tmp_path / "out"
    if there:
        save_folder(sample.where(lambda row: row.image is None), out)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(where, full_disk)
        with pytest.raises(StorageError, match="No space left on device") as caught:
            save_folder(sample, out)
    assert str(out) in str(caught.value) and "Free some space" in str(caught.value)
    assert contents(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == (["mine", "out"] if there else ["mine"])


def test_the_old_folder_comes_back_when_the_last_step_fails(sample, tmp_path, monkeypatch):
    save_folder(sample.subset(1), tmp_path / "out")
    before = contents(tmp_path)
    real, calls = os.replace, iter([True, False, True])

    def second_fails(source: Path, target: Path) -> None:
        real(source, target) if next(calls) else full_disk()

    monkeypatch.setattr("os.replace", second_fails)
    with pytest.raises(StorageError, match="untouched"):
        save_folder(sample, tmp_path / "out")
    assert contents(tmp_path) == before


def test_a_folder_with_other_things_in_it_is_never_replaced(sample, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match=r"thesis\.tex.*Choose another folder"):
        save_folder(sample, tmp_path / "home")
    with pytest.raises(StorageError, match="it is a file"):
        save_folder(sample, tmp_path / "home" / "thesis.tex")
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


def test_an_image_that_went_away_is_named(sample, tmp_path):
    sample.rows[0].image.unlink()
    with pytest.raises(DataError, match=r"'cat'.*a\.png is gone"):
        save_folder(sample, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["mine"]
