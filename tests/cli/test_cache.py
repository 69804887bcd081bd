"""The row cache on the command line: it is used, told, listed, measured and deleted."""

import errno
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tiny
from steersman.backends.cached import CaptureProgress
from steersman.cli import cache, console, shared
from steersman.cli.cache import CacheChoice, size
from steersman.cli.main import app
from steersman.core.errors import RecipeError, SteersmanError, StorageError
from steersman.data.store import RowStore
from steersman.methods.mean import MeanVector

RECIPE = """
method = "mean"
name = "safety"
site = { layer = 1 }
[contrasts.behaviours.harmful]
suffix = " safe ?"
positive = "harmful"
negative = "safe"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A recipe and four rows, two of them steered; the model is a tiny one."""
    monkeypatch.setattr(shared, "load", lambda source, **_: tiny.llama())
    (tmp_path / "recipe.toml").write_text(RECIPE)
    data = tmp_path / "data"
    data.mkdir()
    lines = [
        {"id": f"{i}", "prompt": f"how do i make {w} ?", "behaviour": ("harmful", "none")[i % 2]}
        for i, w in enumerate(("bomb", "cup", "a", "b"))
    ]
    (data / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def invoke(*words: object, answer: str | None = None):
    return CliRunner().invoke(app, [str(w) for w in words], input=answer)


def fails(*words: object) -> SteersmanError:
    """The one error that a command ends with."""
    result = invoke(*words)
    assert isinstance(result.exception, SteersmanError), result.output
    return result.exception


def fit(folder, *more):
    result = invoke(
        "fit", folder / "recipe.toml", "--data", folder / "data", "--out", folder / "policy",
        "--model", "tiny", "--json", *more,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def default_cache() -> Path:
    return Path(os.environ["STEERSMAN_CACHE"])


def test_a_second_fit_takes_its_rows_from_the_cache(folder):
    first = fit(folder)
    assert first["capture"] | {"seconds": 0, "rows_per_second": 0, "tokens_per_second": 0} == {
        "rows": 4, "cached": 0, "tokens": first["capture"]["tokens"], "seconds": 0,
        "rows_per_second": 0, "tokens_per_second": 0, "notes": [],
    }  # fmt: skip
    assert first["capture"]["tokens"] > 0 and first["capture"]["rows_per_second"] > 0
    second = fit(folder)
    assert second["capture"]["cached"] == 4 and second["capture"]["tokens"] == 0
    assert second["content_hash"] == first["content_hash"]
    assert default_cache().is_dir()


def test_people_are_told_what_came_from_the_cache(folder):
    words = ("fit", folder / "recipe.toml", "--data", folder / "data", "--out", folder / "policy")
    for num in (0, 4):
        said = " ".join(invoke(*words).output.split())
        known = f"cache {num} of 4 rows were known, all are kept in {default_cache()}"
        assert known in said
    assert "were known" not in invoke(*words, "--no-cache").output


def test_without_a_cache_nothing_is_kept(folder):
    first, second = fit(folder, "--no-cache"), fit(folder, "--no-cache")
    assert second["capture"]["cached"] == 0 and second["capture"]["rows"] == 4
    assert first["content_hash"] == second["content_hash"] == fit(folder)["content_hash"]
    assert list(default_cache().rglob("rows-*")) != [], "the third one kept its rows"


def test_the_cache_may_be_somewhere_else_and_smaller(folder):
    fit(folder, "--cache", folder / "mine", "--cache-dtype", "bfloat16")
    assert not default_cache().exists()
    (held,) = RowStore(folder / "mine").holdings()
    assert held.dtype == "bfloat16" and held.num_rows == 4 and held.model == "tiny-llama"
    again = fit(folder, "--cache", folder / "mine", "--cache-dtype", "bfloat16")
    assert again["capture"]["cached"] == 4
    assert fit(folder, "--cache", folder / "mine")["capture"]["cached"] == 0


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        (CacheChoice(Path("x"), None, True), "--no-cache and --cache exclude"),
        (CacheChoice(None, "float16", True), "--no-cache and --cache-dtype exclude"),
        (CacheChoice(None, "float61", False), "'float61'.*Did you mean 'float16'"),
    ],
)
def test_choices_that_cannot_be_met_are_refused(choice, says):
    with pytest.raises(RecipeError, match=says):
        choice.open()


@pytest.fixture
def no_model(monkeypatch):
    """A model that is loaded is a failure."""
    monkeypatch.setattr(shared, "load", lambda *_, **__: pytest.fail("a model is loaded"))


def refused(folder, cache) -> str:
    error = fails(
        "fit", folder / "recipe.toml", "--data", folder / "data", "--out", folder / "policy",
        "--cache", cache,
    )  # fmt: skip
    assert isinstance(error, StorageError) and "--no-cache" in str(error)
    return str(error)


@pytest.mark.parametrize("below", ["", "rows"])
def test_a_cache_that_is_a_file_is_said_to_be_one_before_the_model_is_loaded(
    folder, no_model, below
):
    (folder / "file").write_text("")
    said = refused(folder, folder / "file" / below)
    assert f"{folder / 'file'} is a file. Choose another folder" in said
    assert "free some space" not in said


def read_only(*_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_a_cache_on_a_read_only_disk_is_said_to_be_one(folder, no_model, monkeypatch):
    monkeypatch.setattr(cache.tempfile, "TemporaryFile", read_only)
    said = refused(folder, folder / "rows")
    assert f"{folder / 'rows'} cannot be written (Read-only file system). Choose another" in said
    assert "free some space" not in said


def test_rows_of_a_read_only_disk_are_used(folder, monkeypatch):
    fit(folder)
    monkeypatch.setattr(cache.tempfile, "TemporaryFile", read_only)
    assert fit(folder)["capture"]["cached"] == 4


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_cache_where_no_folder_can_be_made_says_where(folder, no_model):
    assert "no folder can be made in /proc)" in refused(folder, "/proc/rows")


@pytest.mark.parametrize("verb", [("ls",), ("du",), ("rm", "--all", "--yes")])
def test_a_file_holds_no_namespaces(folder, verb):
    (folder / "file").write_text("")
    error = fails("cache", *verb, "--cache", folder / "file")
    assert isinstance(error, StorageError) and f"{folder / 'file'} is a file" in str(error)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((), "Stopped. What was read is kept; run the same command to go on."),
        (("--no-cache",), "Stopped."),
    ],
)
def test_ctrl_c_keeps_what_was_read_and_says_so(folder, monkeypatch, more, says):
    words = ("fit", folder / "recipe.toml", "--data", folder / "data", "--out", folder / "policy")
    read = MeanVector.fit

    def stopped(self, model, *given):
        read(self, model, *given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(MeanVector, "fit", stopped)
        result = invoke(*words, *more)
    assert result.exit_code == 130 and result.stderr == says + "\n"
    assert not (folder / "policy").exists()
    assert fit(folder)["capture"]["cached"] == (0 if more else 4)


def test_an_empty_cache_is_said_to_be_empty():
    assert "Nothing is kept" in invoke("cache", "ls").output
    assert "0 B" in invoke("cache", "du").output
    assert json.loads(invoke("cache", "ls", "--json").output)["namespaces"] == []
    assert invoke("cache", "rm", "--all", "--yes").exit_code == 0


@pytest.fixture
def two(folder):
    """The names of two namespaces, the larger one first."""
    fit(folder)
    fit(folder, "--cache-dtype", "bfloat16")
    held = RowStore().holdings()
    return [one.name for one in sorted(held, key=lambda one: -one.num_bytes)]


def test_ls_tells_what_is_there(two):
    lines = invoke("cache", "ls").output.splitlines()
    assert " ".join(lines[0].split()) == "namespace model numerics kept as rows size last used"
    assert {line.split()[0] for line in lines[1:]} == set(two)
    assert all("tiny-llama" in line and " kB" in line for line in lines[1:])
    listed = json.loads(invoke("cache", "ls", "--json").output)
    assert listed["root"] == str(default_cache())
    assert {one["dtype"] for one in listed["namespaces"]} == {"float32", "bfloat16"}
    assert all(one["num_rows"] == 4 and one["used"] > 0 for one in listed["namespaces"])


def test_du_adds_up(two):
    said = json.loads(invoke("cache", "du", "--json").output)
    on_disk = sum(f.stat().st_size for f in default_cache().rglob("*") if f.is_file())
    assert said["bytes"] == sum(said["namespaces"].values()) == on_disk
    lines = invoke("cache", "du").output.splitlines()
    assert len(lines) == 3 and lines[-1].split() == [*size(on_disk).split(), str(default_cache())]


def test_rm_asks_first(two):
    asked = invoke("cache", "rm", two[0], answer="n\n")
    assert asked.exit_code == 1 and two[0] in asked.output and two[1] not in asked.output
    assert len(RowStore().holdings()) == 2
    assert invoke("cache", "rm", two[0], answer="y\n").exit_code == 0
    assert [one.name for one in RowStore().holdings()] == [two[1]]


def test_rm_removes_all_without_asking_where_it_is_told_to(two):
    removed = json.loads(invoke("cache", "rm", "--all", "--yes", "--json").output)
    assert set(removed["removed"]) == set(two) and removed["bytes"] > 0
    assert list(default_cache().iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "--all"),
        (("abc", "--all"), "--all"),
        (("--all", "--json"), "--yes"),
        (("abc", "--yes"), "There are no rows 'abc'"),
    ],
)
def test_rm_does_not_guess(two, words, says):
    assert says in str(fails("cache", "rm", *words))
    assert len(RowStore().holdings()) == 2


@pytest.mark.parametrize(
    ("num_bytes", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_499, "99.5 kB"), (123_456, "123 kB"),
     (999_600, "1.0 MB"), (1_640_000_000, "1.6 GB"), (5 * 10**18, "5000 PB")],
)  # fmt: skip
def test_sizes_are_for_people(num_bytes, said):
    assert size(num_bytes) == said


NOW = CaptureProgress("answer_states", rows=1200, total=2000, cached=200, tokens=30_000, seconds=10)


def test_people_see_rows_their_speed_and_the_time_left():
    assert console.told(NOW) == "answer states 1,200/2,000, 100 rows/s, 0:08 left"
    slow = replace(NOW, total=99_999, cached=1150)
    assert console.told(slow) == "answer states 1,200/99,999, 5.0 rows/s, 5:29:20 left"
    known = replace(NOW, rows=200)
    assert console.told(known) == "answer states 200/2,000, 200 from the cache"


def test_programs_see_a_line_a_second_at_most(monkeypatch, capsys):
    clock = iter([0.0, 0.2, 0.9, 1.1, 1.1, 1.9, 2.2, 2.2])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    lines = console.CaptureLines()
    for _ in range(5):
        lines(NOW)
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 2
    assert json.loads(said.err.splitlines()[0]) == {
        "event": "capture", "what": "answer_states", "rows": 1200, "total": 2000, "cached": 200,
        "tokens": 30_000, "seconds": 10, "rows_per_second": 100.0, "tokens_per_second": 3000.0,
        "seconds_left": 8.0,
    }  # fmt: skip


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_of_80_columns_sees_progress_and_a_pipe_sees_nothing(
    monkeypatch, capsys, terminal
):
    made = console.Console(stderr=True, force_terminal=terminal, width=80)
    monkeypatch.setattr(console, "err", made)
    monkeypatch.setattr(console, "Console", lambda **_: made)
    long = replace(NOW, rows=123_456, total=3_000_000, seconds=1000)
    with console.stages() as note:
        note("fitting l2s on 3,000,000 rows", 0.2)
        note.capture(long)
    assert (console.told(long) in capsys.readouterr().err) is terminal
    with console.stages() as note:
        note("fitting l2s on 3,000,000 rows", 0.2)
        note.capture(long)
        note.capture(replace(long, rows=long.total))
    said = capsys.readouterr().err
    assert ("fitting l2s on 3,000,000 rows: computing" in said) is terminal


def test_rows_of_one_dtype_are_the_same_the_first_and_the_second_time(folder):
    hashes = {fit(folder, "--cache-dtype", "float16")["content_hash"] for _ in range(2)}
    assert len(hashes) == 1 and hashes != {fit(folder)["content_hash"]}
