"""Rows on disk: what was handed out comes back, whoever else writes, and whatever breaks."""

import errno
import os
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from steersman.core.errors import RecipeError, StorageError
from steersman.data import namespace as namespaces
from steersman.data import segments
from steersman.data.store import RowStore, default_root

WHO = {"config": "c", "weights": "w", "chat_template": "t", "processor": "p"}
ONE = torch.ones(1, dtype=torch.long)


def key(name: object) -> bytes:
    return sha256(str(name).encode()).digest()


def keys(num: int, of: str = "") -> list[bytes]:
    return [key(f"{of}{i}") for i in range(num)]


def opened(root, *, numerics="float32", who=WHO, **settings):
    """A new process' view of the store, as far as one process can have it."""
    return RowStore(root, **settings).open(model="tiny", fingerprint=who, numerics=numerics)


def put(rows, names, values, column="resid_post[1]"):
    return rows.add(names, torch.ones(len(names), dtype=torch.long), {column: values})


def segments_of(rows) -> list[Path]:
    return sorted(rows.folder.glob("rows-*.safetensors"))


def test_rows_come_back_in_any_order_and_in_another_process_view(tmp_path):
    rows, values = opened(tmp_path), torch.randn(5, 4)
    assert torch.equal(put(rows, keys(5), values).columns["resid_post[1]"], values)
    order = [3, 0, 4]
    wanted = [keys(5)[i] for i in order]
    for view in (rows, (rows.flush(), opened(tmp_path))[1]):
        assert torch.equal(view.read(wanted, ["resid_post[1]"]).columns["resid_post[1]"],
                           values[order])  # fmt: skip


def test_runs_of_several_rows_keep_together(tmp_path):
    rows, counts = opened(tmp_path), torch.tensor([2, 0, 3])
    states, tokens = torch.randn(5, 4), torch.arange(5)
    rows.add(keys(3), counts, {"head_in[2]": states, "next_token": tokens})
    rows.flush()
    found = opened(tmp_path).read([key(2), key(1), key(0)], ["head_in[2]", "next_token"])
    assert found.counts.tolist() == [3, 0, 2]
    assert found.columns["next_token"].tolist() == [2, 3, 4, 0, 1]
    assert found.columns["next_token"].dtype == torch.long
    assert torch.equal(found.columns["head_in[2]"], states[[2, 3, 4, 0, 1]])


def test_a_key_is_held_only_with_all_the_columns_asked_for(tmp_path):
    rows = opened(tmp_path)
    put(rows, keys(2), torch.randn(2, 4), "a")
    put(rows, keys(1), torch.randn(1, 6), "b")
    assert rows.holds(keys(3), ["a"]) == [True, True, False]
    assert rows.holds(keys(3), ["a", "b"]) == [True, False, False]
    rows.flush()
    assert opened(tmp_path).holds(keys(3), ["a", "b"]) == [True, False, False]
    assert opened(tmp_path).read(keys(1), ["a", "b"]).columns["b"].shape == (1, 6)


def test_what_was_kept_first_stays_column_by_column(tmp_path):
    rows = opened(tmp_path)
    put(rows, keys(1), torch.zeros(1, 2), "a")
    found = rows.add(keys(2), torch.ones(2, dtype=torch.long),
                     {"a": torch.ones(2, 2), "b": torch.ones(2, 2)})  # fmt: skip
    rows.flush()
    for view in (found, opened(tmp_path).read(keys(2), ["a", "b"])):
        assert view.columns["a"].tolist() == [[0, 0], [1, 1]]
        assert view.columns["b"].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_first_use_sees_the_numbers_that_later_ones_see(tmp_path, dtype):
    rows, values = opened(tmp_path, dtype=dtype), torch.randn(3, 64)
    first = put(rows, keys(3), values).columns["resid_post[1]"]
    rows.flush()
    (segment,) = segments_of(rows)
    second = opened(tmp_path, dtype=dtype).read(keys(3), ["resid_post[1]"]).columns["resid_post[1]"]
    assert torch.equal(first, values.to(dtype).float()) and torch.equal(first, second)
    assert first.dtype == torch.float32
    assert segment.stat().st_size < 1000 + 3 * 64 * dtype.itemsize


def test_a_number_too_large_for_float16_is_refused(tmp_path):
    rows = opened(tmp_path, dtype=torch.float16)
    with pytest.raises(RecipeError, match="reaches 7e.04.*bfloat16"):
        put(rows, keys(1), torch.tensor([[7e4, float("inf")]]))
    assert rows.holds(keys(1), ["resid_post[1]"]) == [False]


def test_rows_cannot_be_kept_as_anything(tmp_path):
    with pytest.raises(RecipeError, match="bfloat16"):
        RowStore(tmp_path, dtype=torch.int8)


@pytest.mark.parametrize("part", ["config", "weights", "chat_template", "processor"])
def test_another_model_template_or_processor_is_another_namespace(tmp_path, part):
    put(opened(tmp_path, flush_seconds=0), keys(1), torch.zeros(1, 2))
    assert opened(tmp_path).holds(keys(1), ["resid_post[1]"]) == [True]
    other = opened(tmp_path, who={**WHO, part: "other"})
    assert other.holds(keys(1), ["resid_post[1]"]) == [False]


def test_other_numerics_and_other_storage_are_other_namespaces(tmp_path):
    put(opened(tmp_path, flush_seconds=0), keys(1), torch.zeros(1, 2))
    for other in (opened(tmp_path, numerics="bfloat16"), opened(tmp_path, dtype=torch.bfloat16)):
        assert other.holds(keys(1), ["resid_post[1]"]) == [False]


def test_rows_wait_for_a_while_or_for_a_size(tmp_path):
    patient = opened(tmp_path / "a", flush_seconds=1e9)
    put(patient, keys(1), torch.zeros(1, 2))
    assert not segments_of(patient)
    patient.flush()
    assert len(segments_of(patient)) == 1
    patient.flush()
    assert len(segments_of(patient)) == 1
    full = opened(tmp_path / "b", flush_seconds=1e9, flush_bytes=16)
    put(full, keys(1, "x"), torch.zeros(1, 2))
    assert not segments_of(full)
    put(full, keys(1, "y"), torch.zeros(1, 2))
    assert len(segments_of(full)) == 1
    hasty = opened(tmp_path / "c", flush_seconds=0)
    put(hasty, keys(1), torch.zeros(1, 2))
    assert len(segments_of(hasty)) == 1


def test_leaving_the_store_writes_what_waits(tmp_path):
    with RowStore(tmp_path) as store:
        rows = store.open(model="tiny", fingerprint=WHO, numerics="float32")
        put(rows, keys(1), torch.zeros(1, 2))
        assert not segments_of(rows)
    assert opened(tmp_path).holds(keys(1), ["resid_post[1]"]) == [True]


def test_rows_of_others_are_found_and_do_not_replace_our_own(tmp_path):
    """Two processes write the same row; each goes on with what it used before."""
    one, two = opened(tmp_path), opened(tmp_path)
    put(two, keys(1), torch.full((1, 2), 2.0))
    two.flush()
    put(one, keys(2), torch.full((2, 2), 1.0))  # has not looked yet
    for _ in range(2):
        one.refresh()
        two.refresh()
        assert (
            one.read(keys(2), ["resid_post[1]"]).columns["resid_post[1]"].tolist() == [[1, 1]] * 2
        )
        assert two.read(keys(1), ["resid_post[1]"]).columns["resid_post[1]"].tolist() == [[2, 2]]
        one.flush()
    assert two.holds(keys(2), ["resid_post[1]"]) == [True, True]
    new = opened(tmp_path).read(keys(2), ["resid_post[1]"]).columns["resid_post[1]"]
    assert new.tolist() == [[2, 2], [1, 1]], "the file that was written first"


def test_leftovers_of_killed_processes_are_ignored_and_old_ones_removed(tmp_path):
    rows = opened(tmp_path)
    young, old = (rows.folder / f".rows-{c * 32}.tmp" for c in "ab")
    for file in (young, old):
        file.write_bytes(b"half a segme")
    other = rows.folder / "notes.tmp"
    other.write_text("mine")
    for file in (old, other):
        os.utime(file, (time.time() - 2 * 86400,) * 2)
    opened(tmp_path)
    assert young.exists() and other.exists() and not old.exists()


@pytest.mark.parametrize("damage", ["empty", "cut", "other", "unfit", "flat", "halves"])
def test_a_damaged_segment_is_left_out_with_one_warning_that_names_it(tmp_path, damage):
    rows = opened(tmp_path, flush_seconds=0)
    put(rows, keys(2), torch.zeros(2, 2))
    put(rows, keys(2, "more"), torch.zeros(2, 2))
    first, _ = segments_of(rows)
    content = first.read_bytes()
    unfit = segments.save({"keys": torch.zeros(1, 32, dtype=torch.uint8), "a": torch.zeros(3, 2),
                           "counts": torch.ones(1, dtype=torch.long)})  # fmt: skip
    others = segments.save({"a": torch.zeros(3)})
    whole = load(content)
    flat = segments.save({**whole, "b": torch.tensor(1.0)})
    halves = segments.save({**whole, "counts": whole["counts"].half()})
    wrong = {"empty": b"", "cut": content[:-3], "other": others, "unfit": unfit}
    first.write_bytes({**wrong, "flat": flat, "halves": halves}[damage])
    with pytest.warns(UserWarning, match=first.name) as told:
        view = opened(tmp_path)
        view.refresh()
    assert len(told) == 1
    assert view.holds([*keys(2), *keys(2, "more")], ["resid_post[1]"]) == [False] * 2 + [True] * 2


def test_rows_may_be_removed_while_they_are_used(tmp_path):
    rows = opened(tmp_path, flush_seconds=0)
    put(rows, keys(1), torch.ones(1, 2))
    store = RowStore(tmp_path)
    store.remove(rows.folder.name)
    assert not rows.folder.exists()
    rows.refresh()
    assert rows.read(keys(1), ["resid_post[1]"]).columns["resid_post[1]"].tolist() == [[1, 1]]
    put(rows, keys(1, "more"), torch.ones(1, 2))
    assert opened(tmp_path).holds([key(0), key("more0")], ["resid_post[1]"]) == [False, True]


def test_a_segment_that_vanishes_between_listing_and_opening_is_absent(tmp_path, monkeypatch):
    rows = opened(tmp_path, flush_seconds=0)
    put(rows, keys(1), torch.ones(1, 2))

    def gone(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(namespaces, "open_segment", gone)
    assert opened(tmp_path).holds(keys(1), ["resid_post[1]"]) == [False]


def test_only_what_is_ours_is_removed(tmp_path):
    rows = opened(tmp_path, flush_seconds=0)
    put(rows, keys(1), torch.ones(1, 2))
    kept = rows.folder / "thesis.safetensors"
    kept.write_text("mine")
    (rows.folder / f".rows-{'a' * 32}.tmp").write_text("half")
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / f"rows-{'0' * 32}.safetensors").write_text("not ours: no about.json")
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    rows.folder.rename(elsewhere)
    rows.folder.symlink_to(elsewhere)
    store = RowStore(tmp_path)
    assert store.holdings() == []
    with pytest.raises(RecipeError, match="cache ls"):
        store.remove(rows.folder.name)
    rows.folder.unlink()
    elsewhere.rename(rows.folder)
    for wrong in ("photos", "..", "", str(rows.folder)):
        with pytest.raises(RecipeError, match="There are no rows"):
            store.remove(wrong)
    store.remove(rows.folder.name)
    assert [f.name for f in rows.folder.iterdir()] == [kept.name]
    assert list(foreign.iterdir()) and store.holdings() == []


def test_holdings_tell_what_is_there(tmp_path):
    assert RowStore(tmp_path / "none").holdings() == []
    rows = opened(tmp_path, flush_seconds=0, dtype=torch.bfloat16)
    put(rows, keys(3), torch.ones(3, 2))
    put(rows, keys(2, "more"), torch.ones(2, 2))
    (held,) = RowStore(tmp_path).holdings()
    assert (held.name, held.model, held.dtype) == (rows.folder.name, "tiny", "bfloat16")
    assert held.numerics == "float32" and held.num_rows == 5
    assert held.num_bytes == sum(f.stat().st_size for f in rows.folder.iterdir())
    assert abs(held.used - time.time()) < 3600


def test_the_root_is_the_users_cache_folder_unless_told(tmp_path, monkeypatch):
    monkeypatch.setenv("STEERSMAN_CACHE", str(tmp_path / "given"))
    assert default_root() == tmp_path / "given"
    monkeypatch.delenv("STEERSMAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_root() == tmp_path / "xdg" / "steersman"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".cache" / "steersman"


def test_a_folder_that_we_make_is_for_its_user_alone(tmp_path):
    opened(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path, monkeypatch):
    rows = opened(tmp_path, flush_seconds=0)
    put(rows, keys(1), torch.ones(1, 2))
    before = {f.name: f.read_bytes() for f in rows.folder.iterdir()}

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(segments.os, "fsync", full)
        with pytest.raises(StorageError, match="No space left.*cache rm.*--cache DIR.*--no-cache"):
            put(rows, keys(1, "more"), torch.ones(1, 2))
    assert {f.name: f.read_bytes() for f in rows.folder.iterdir()} == before
    assert rows.holds(keys(1, "more"), ["resid_post[1]"]) == [True], "kept, to be written later"
    rows.flush()
    assert opened(tmp_path).holds([key(0), key("more0")], ["resid_post[1]"]) == [True, True]


def test_a_root_that_cannot_be_made_is_said_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file is a file.*--cache DIR.*--no-cache"):
        opened(tmp_path / "file")


LIMITED = """
import resource, sys, torch
from steersman.core.errors import StorageError
from steersman.data.store import RowStore

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
rows = RowStore(sys.argv[1], flush_seconds=0).open(model="tiny", fingerprint={}, numerics="")
for i, size in enumerate((10, 10, 100_000, 10)):
    try:
        rows.add([bytes([i]) * 32], torch.ones(1, dtype=torch.long), {"a": torch.ones(1, size)})
    except StorageError as error:
        sys.exit(f"{i}: {error}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits on file sizes are POSIX")
def test_a_process_whose_disk_refuses_leaves_all_that_it_wrote_and_nothing_else(tmp_path):
    """A real refusal by the system: files may not grow beyond a limit."""
    stopped = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True
    )
    assert stopped.returncode == 1 and "Traceback" not in stopped.stderr, stopped.stderr
    assert stopped.stderr.startswith("2: The row cache") and "File too large" in stopped.stderr
    assert [f.name for f in tmp_path.glob("*/.*.tmp")] == []
    rows = opened(tmp_path, who={}, numerics="", flush_seconds=0)
    names = [bytes([i]) * 32 for i in range(4)]
    assert rows.holds(names, ["a"]) == [True, True, False, False]
    put(rows, names[2:], torch.ones(2, 10), "a")
    assert opened(tmp_path, who={}, numerics="").holds(names, ["a"]) == [True] * 4
