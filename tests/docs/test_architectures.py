"""The page of architectures is the one that the tests' own tables make."""

import importlib.util
from pathlib import Path

import pytest

from architectures.architecture import POINTS
from architectures.text import REFUSED, TEXT
from architectures.vision import VISION

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architectures.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tool():
    path = ROOT / "tools/architecture_table.py"
    spec = importlib.util.spec_from_file_location("architecture_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(tool):
    assert tool.filled(PAGE) == PAGE, "Run: python tools/architecture_table.py"


def test_every_architecture_has_a_row_of_its_own():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    for made in (*TEXT, *VISION, *REFUSED):
        assert sum(row.startswith(f"| {made.name} | `{made.model_class}` |") for row in rows) == 1
    assert all(row.replace("\\|", "").count("|") in (5, 6) for row in rows)


def test_the_points_of_a_row_are_those_of_the_architecture(tool):
    table = tool.supported(TEXT)
    assert "| Llama | `LlamaForCausalLM` | all |" in table
    assert "| OPT | `OPTForCausalLM` | all but `mlp_out` |" in table
    assert "| Mamba | `MambaForCausalLM` | `resid_pre`, `resid_post`, `head_in` |" in table
    assert set(POINTS) >= {point for made in (*TEXT, *VISION) for point in made.points}
