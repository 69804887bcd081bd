"""Reading a user's folder: what works, and one clear error for everything that does not."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

import steersman.data.images
from steersman.core.errors import DataError
from steersman.data import load, load_folder

GOOD = {"id": "a", "prompt": "What is this?"}


def error_of(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_folder(folder)
    return str(caught.value)


def test_rows_are_read_with_all_their_keys(sample):
    cat, hello, own = sample
    assert (cat.id, cat.behaviour, cat.answer) == ("cat", "honest", "Yes")
    assert cat.image.name == "a.png" and cat.labels == {"split": "random", "count": 2}
    assert (hello.behaviour, hello.system, hello.image) == ("none", "Be kind.", None)
    assert (own.positive, own.negative) == ("Hello!", "Go away.")
    assert sample.meta == {"suite": "pope"} and len(sample) == 3


def test_null_is_the_same_as_a_missing_key(write_folder):
    keys = ("image", "system", "behaviour", "positive", "negative", "answer", "labels")
    nulls = load_folder(write_folder({**GOOD, **dict.fromkeys(keys)}, name="nulls"))
    plain = load_folder(write_folder(GOOD, name="plain"))
    assert nulls.rows == plain.rows and nulls.hash == plain.hash


def test_blank_lines_byte_order_mark_and_line_ends_of_windows_are_fine(write_folder):
    raw = b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n"
    assert len(load_folder(write_folder(raw))) == 1


def test_line_numbers_count_blank_lines(write_folder):
    assert "line 3" in error_of(write_folder(GOOD, "", "{"))


@pytest.mark.parametrize(
    ("line", "wrong", "cure"),
    [
        ("{'id': 1}", "not JSON", "Correct the line"),
        ('{"id": "b", "prompt": "x", "labels": {"n": NaN}}', "NaN", "Correct the line"),
        ('{"id": "b", "id": "c", "prompt": "x"}', "'id' is there twice", "Correct the line"),
        (b'{"id": "b", "prompt": "\xff"}', "not JSON ('utf-8'", "Correct the line"),
        ("[" * 100_000, "not JSON", "Correct the line"),
        ([1, 2], "a list, not a JSON object", "Write one {...} a line"),
        ({"prompt": "x"}, "'id' is missing", "Add it"),
        ({"id": "b"}, "'prompt' is missing", "Add it"),
        ({"id": 7, "prompt": "x"}, "id is the number 7", "write a string"),
        ({**GOOD, "id": "b", "prompt": ["x"]}, "prompt is a list", "write a string"),
        ({**GOOD, "id": "b", "answer": True}, "answer is the value true", "write a string"),
        ({**GOOD, "id": "b", "labels": "x"}, "labels is a string", "write a JSON object"),
        ({**GOOD, "id": "b", "promt": "x"}, "'promt' is unknown", "Did you mean 'prompt'?"),
        ({"id": " ", "prompt": "x"}, "id is empty", "Give the row a unique name"),
        ({"id": "b", "prompt": " \n"}, "prompt is empty", "Write what the user says"),
        ({**GOOD, "id": "b", "behaviour": ""}, "behaviour is empty", "Name a contrast"),
        ({**GOOD, "id": "b", "answer": ""}, "answer is empty", "Write the answer"),
        (
            {**GOOD, "id": "b", "positive": "", "negative": "x"},
            "positive is empty",
            "Write the completion",
        ),
        (
            {**GOOD, "id": "b", "positive": "x", "negative": " "},
            "negative is empty",
            "Write the completion",
        ),
        (
            {**GOOD, "id": "b", "positive": "x"},
            "a positive completion but no negative",
            "Give both or neither",
        ),
        (
            {**GOOD, "id": "b", "negative": "x"},
            "a negative completion but no positive",
            "Give both or neither",
        ),
        ({**GOOD, "id": "b", "positive": "x", "negative": "x"}, "are the same", "Change one"),
        ({**GOOD, "prompt": "again"}, "the id is taken by line 1", "its own id"),
        ({**GOOD, "id": "b", "image": "b.png"}, "b.png does not exist", "Put it there"),
        ({**GOOD, "id": "b", "image": 3}, "image is not a path", "Write a path"),
        ({**GOOD, "id": "b", "image": ""}, "image is not a path", "leave it out"),
        ({**GOOD, "id": "b", "image": "../mine/a.png"}, "outside of the folder", "Copy it into"),
        ({**GOOD, "id": "b", "image": "/a.png"}, "outside of the folder", "relative to it"),
        ({**GOOD, "id": "b", "image": "pairs.jsonl"}, "cannot be decoded", "export it again"),
        ({**GOOD, "id": "b", "image": "."}, "cannot be decoded", "export it again"),
        ({**GOOD, "id": "b", "image": "a\0.png"}, "unusable", "image path"),
        ({"id": "b", "prompt": "\ud800"}, "not JSON ('utf-8'", "Correct the line"),
    ],
)
def test_a_wrong_row_names_file_line_and_cure(write_folder, line, wrong, cure):
    folder = write_folder(GOOD, line)
    message = error_of(folder)
    assert str(folder / "pairs.jsonl") in message and "line 2" in message
    assert wrong in message and cure in message


def test_the_row_is_named_where_it_has_an_id(write_folder):
    assert "line 1 (id 'b')" in error_of(write_folder({"id": "b", "prompt": ""}))


def test_a_truncated_image_is_found_when_reading(write_folder):
    folder = write_folder({**GOOD, "image": "a.png"})
    Image.effect_noise((64, 64), 50).save(folder / "a.png")
    whole = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(whole[: len(whole) // 2])
    message = error_of(folder)
    assert "line 1" in message and "a.png cannot be decoded" in message and "again" in message


def test_an_image_that_would_fill_the_memory_is_refused(write_folder, monkeypatch):
    folder = write_folder({**GOOD, "image": "a.png"})
    monkeypatch.setattr(steersman.data.images, "MAX_PIXELS", 20)
    assert "has more than 20 pixels. Scale it down." in error_of(folder)


def test_the_limit_of_pillow_gives_the_same_error(write_folder, monkeypatch):
    folder = write_folder({**GOOD, "image": "a.png"})
    for limit in (10, 30):  # 48 pixels: an error above twice the limit, a warning below
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert "pixels. Scale it down." in error_of(folder)


def test_a_link_out_of_the_folder_is_refused(write_folder, tmp_path):
    folder = write_folder({**GOOD, "image": "link.png"})
    os.rename(folder / "a.png", tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    assert "outside of the folder" in error_of(folder)


def test_all_problems_are_collected_and_the_first_ten_shown(write_folder):
    folder = write_folder(*[{"id": str(i), "prompt": ""} for i in range(13)])
    message = error_of(folder)
    assert f"{folder / 'pairs.jsonl'} has 13 problems" in message
    assert "line 10 " in message and "line 11 " not in message and "and 3 more" in message


def test_a_missing_folder_a_file_and_a_folder_without_rows(tmp_path, write_folder):
    assert "There is no folder" in error_of(tmp_path / "nowhere")
    folder = write_folder()
    assert "pairs.jsonl has no rows" in error_of(folder)
    assert "is a file" in error_of(folder / "a.png")
    (folder / "pairs.jsonl").unlink()
    assert f"{folder} has no pairs.jsonl" in error_of(folder)


def test_a_folder_of_splits_says_which_there_are(write_folder, tmp_path):
    write_folder(GOOD, name="data/fit")
    write_folder(GOOD, name="data/test")
    assert "Choose one of its folders: fit, test." in error_of(tmp_path / "data")
    assert load(tmp_path / "data", "fit").rows[0].id == "a"


@pytest.mark.parametrize("meta", ["{", "[1]", '{"a": 1, "a": 2}'])
def test_a_wrong_dataset_json_is_named(write_folder, meta):
    message = error_of(write_folder(GOOD, meta=meta))
    assert "dataset.json" in message and "remove the file" in message
