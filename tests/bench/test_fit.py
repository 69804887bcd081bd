"""bench/fit.py runs, and its published table holds what was measured."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from steersman.evals.records import Result, Results

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
METHODS = ("l2s_svd", "prober", "scs", "sas", "repe", "alphasteer", "mean")


def _loaded(path: str):
    spec = importlib.util.spec_from_file_location(Path(path).stem + "_bench", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "bench"))
        yield _loaded("bench/fit.py")


@pytest.fixture(scope="module")
def publish():
    return _loaded("tools/publish_bench.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    made = tmp_path_factory.mktemp("bench") / "fit.json"
    command = [sys.executable, ROOT / "bench/fit.py", "--quick", "--json", made]
    command += ["--methods", ",".join(METHODS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Results.load(made)


def test_every_method_has_its_time_and_memory_beside_a_reference(results):
    timed = {row.method for row in results.select(split="n160", metric="speedup")}
    large = {row.method for row in results.select(split="n320", metric="peak_memory")}
    assert timed == set(METHODS) and large == set(METHODS) - {"l2s_svd", "alphasteer"}
    assert all(row.value > 0 for row in results.rows if row.metric != "loss")
    assert results.find("fit", "prober", "n160", "seconds").n == 2


def test_the_start_by_singular_vectors_trains_to_the_loss_of_the_plain_recipe(results):
    ours = results.find("fit", "l2s_svd", "n160", "loss").value
    theirs = results.find("fit", "l2s_svd", "n160", "loss_reference").value
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_what_differs_from_its_reference_ends_the_run(bench):
    bench.check_same("sas", {"same": [1.0, 2.0]}, {"same": [1.0, 2.0001]})
    with pytest.raises(SystemExit, match="sas: ours and the reference differ"):
        bench.check_same("sas", {"same": [1.0, 2.0]}, {"same": [1.0, 2.1]})


def test_a_row_is_the_same_whichever_rows_are_read_with_it(bench):
    model = bench.Synthetic(16)
    together = bench.states(model, range(500, 530))
    assert torch.equal(together[3:4], bench.states(model, [503]))
    wanted = bench.states(model, range(500, 530), "yes")
    assert not torch.equal(wanted, together)


def test_the_table_has_every_figure_and_the_page_holds_the_stored_ones(publish, results):
    made = publish.block(results)
    assert all(publish.cell(row) in made for row in results.rows)
    stored = ROOT / "docs/fit.json"
    wanted = publish.block(Results.load(stored)) if stored.exists() else ""
    page = (ROOT / "docs/bench.md").read_text(encoding="utf-8")
    assert publish.filled(page, wanted, "fit") == page


def test_rows_without_a_block_are_refused(publish):
    other = Results((Result("overhead", "m", "s", "ratio", 1.0, 1.0, 1.0, 1),))
    with pytest.raises(SystemExit, match="The rows are of overhead"):
        publish.block(other)
    with pytest.raises(SystemExit, match="no <!-- fit:begin -->"):
        publish.filled("a page", "", "fit")
