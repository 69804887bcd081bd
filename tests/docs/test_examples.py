"""Every example runs and says something."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_it_runs(path, capsys):
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_the_examples_recipe_is_the_worlds():
    """Two copies of one recipe: the package's, and the one to start from."""
    root = Path(__file__).parents[2]
    one = (root / "examples/world_safety.toml").read_text()
    assert one == (root / "src/steersman/world/recipes/safety.toml").read_text()
