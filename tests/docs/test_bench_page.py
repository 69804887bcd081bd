"""The figures of docs/bench.md are those that are stored beside it."""

import importlib.util
from pathlib import Path

import pytest

from steersman.evals.records import Results

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/bench.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("bench_page", ROOT / "tools/publish_bench.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("suite", ["generate", "capture", "fit"])
def test_the_page_holds_the_stored_figures(tool, suite):
    results = Results.load(ROOT / f"docs/{suite}.json")
    assert tool.filled(PAGE, tool.block(results), suite) == PAGE
    assert tool.filled(PAGE, "other figures\n", suite) != PAGE


def test_it_is_told_how_many_pairs_are_behind_a_value(tool):
    results = Results.load(ROOT / "docs/capture.json")
    for row in results.select(metric="rows_per_second"):
        assert f"{row.n} ({row.split})" in tool.counted(results)
