from dataclasses import replace

import pytest

from steersman.core.errors import DataError
from steersman.data.rows import Row
from steersman.methods.groups import linked, members, row_groups
from tiny import picture


def test_items_are_linked_through_others():
    assert linked([{"a"}, {"b"}, {"a", "c"}, set(), {"c"}, {"b"}]) == [0, 1, 0, 2, 0, 1]
    assert linked([set(), set()]) == [0, 1]
    assert linked([]) == []


def test_members_are_listed_as_their_groups_come_up():
    assert members([7, 2, 7, 0]) == [[0, 2], [1], [3]]


def test_rows_with_one_pair_or_one_image_are_one_group(tmp_path):
    picture(1).save(tmp_path / "a.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    plain = Row(id="r", prompt="a")
    rows = [
        replace(plain, labels={"pair": "x"}, image=tmp_path / "a.png"),
        replace(plain, image=tmp_path / "copy.png"),
        replace(plain, labels={"pair": "x", "object": "cup"}),
        replace(plain, labels={"object": "cup"}),
        plain,
        replace(plain, image=picture(2)),
        replace(plain, image=picture(2)),
    ]
    assert row_groups(rows) == [0, 0, 0, 1, 2, 3, 3]
    assert row_groups(rows, ("object",)) == [0, 0, 0, 0, 1, 2, 2]


def test_an_image_that_is_gone_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        row_groups([Row(id="r", prompt="a", image=tmp_path / "gone.png")])
