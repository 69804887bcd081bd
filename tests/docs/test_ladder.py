"""The published figures are the stored ones, and the rungs are computed from them."""

import importlib.util
from pathlib import Path

import pytest

from steersman.core.errors import DataError
from steersman.evals.records import Results
from steersman.experiments.rungs import rungs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def publish():
    spec = importlib.util.spec_from_file_location("publish", ROOT / "tools/publish_ladder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_documents_hold_the_stored_figures(publish):
    results = Results.load(ROOT / "docs/ladder.json")
    assert publish.page(results) == (ROOT / "docs/ladder.md").read_text(encoding="utf-8")
    card = ROOT / "src/steersman/world/bundled/README.md"
    assert publish.card_table(results) in card.read_text(encoding="utf-8")


def test_a_missing_figure_is_an_error_and_not_a_rung():
    with pytest.raises(DataError, match="no utility/none/colour/accuracy"):
        rungs(Results())
