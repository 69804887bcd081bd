"""The published comparison is the stored one."""

import importlib.util
from pathlib import Path

import pytest

from steersman.core.errors import DataError
from steersman.evals.records import Results
from steersman.experiments.goals import goals

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def publish():
    spec = importlib.util.spec_from_file_location("compare", ROOT / "tools/publish_compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_documents_hold_the_stored_figures(publish):
    results = Results.load(ROOT / "docs/compare.json")
    assert publish.page(results) == (ROOT / "docs/compare.md").read_text(encoding="utf-8")
    brief = publish.brief(results, publish.README, publish.SHOWN)
    assert brief in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_missing_figure_is_an_error_and_not_a_goal():
    with pytest.raises(DataError, match="no safety/none/text/asr"):
        goals(Results())
