"""bench/generate.py runs, and what it says of medians, memory and idle steering is true."""

import importlib.util
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from scipy.stats import binom

from steersman.evals.records import Results

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def _loaded(path: str):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "bench"))
        yield _loaded("bench/generate.py")


@pytest.fixture(scope="module")
def publish():
    return _loaded("tools/publish_bench.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    made = tmp_path_factory.mktemp("bench") / "generate.json"
    command = [sys.executable, ROOT / "bench/generate.py", "--quick", "--json", made]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Results.load(made)


def test_the_quick_run_times_every_method_at_every_batch(results):
    methods = {"none_again", "hook", "static", "l2s", "autosteer", "finesteer"}
    for split in ("batch1", "batch32"):
        timed = {r.method: r for r in results.select(split=split, metric="ratio")}
        assert timed.keys() == methods | ({"mixed32", "one32"} if split == "batch32" else set())
        assert all(r.value > 0 and r.n == 2 for r in timed.values())
        assert results.find("generate", "none", split, "tokens_per_second").value > 0
    assert results.find("generate", "mixed32", "batch32", "ratio_to_one").value > 0


def test_a_second_unsteered_run_adds_no_memory_and_steering_frees_none(results):
    added = {r.method: r.value for r in results.select(split="batch32", metric="added_memory")}
    assert added["none_again"] == 0
    assert {"l2s", "mixed32", "one32"} <= added.keys() and min(added.values()) >= 0


def test_the_order_statistics_hold_the_median_with_95_percent_probability(bench):
    for n in (6, 15, 21, 40):
        row = bench.median_row("m", "s", "ratio", [float(i) for i in range(n)])
        inside = 1 - 2 * binom.cdf(int(row.low), n, 0.5)  # `low` values lie below it
        narrower = 1 - 2 * binom.cdf(int(row.low) + 1, n, 0.5)
        assert row.high == n - 1 - row.low and narrower < 0.95 <= inside


def test_rounds_drop_the_first_and_shuffle_the_others(bench):
    called = []
    runs = {name: (lambda name=name: called.append(name)) for name in "abcdef"}
    seconds = bench.interleaved(runs, 3, device="cpu")
    rounds = [called[i : i + 6] for i in range(0, len(called), 6)]
    assert [len(values) for values in seconds.values()] == [3] * 6
    assert len(rounds) == 4 and all(sorted(order) == list("abcdef") for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1


def test_the_peak_counts_what_is_alive_at_once_and_not_what_was_there(bench):
    there = torch.zeros(1000)

    def held_by_a_view():
        first = (there + 1).view(10, 100).t()
        second = first * 1
        del first
        return (second + 1) * 1

    runs = {
        "chain": lambda: (there + 1) + 1 + 1 + 1,
        "in_place": lambda: there.view(10, 100).add_(1),
        "view": held_by_a_view,
    }
    assert bench.peaks(runs, device="cpu") == {"chain": 8000, "in_place": 0, "view": 12000}


def test_steering_that_does_nothing_is_not_timed(bench):
    shape = bench.SHAPES["quick"]
    model = bench.HFModel(bench.build(shape, "cpu"), bench.tokenizer())
    inputs = bench.prompts(shape, 2, "cpu")
    bench.check_steers(model, bench.contexts(model, shape, 2), inputs)
    with pytest.raises(SystemExit, match="hook changed 0 of 2 rows and should change 2"):
        bench.check_steers(model, {"hook": nullcontext}, inputs)


def test_every_l2s_policy_of_the_mixed_batch_is_another(bench):
    shape = bench.SHAPES["quick"]
    nets = [bench.l2s(shape, seed).synthesizer.encoder for seed in range(3)]
    assert not torch.equal(nets[0], nets[1]) and not torch.equal(nets[1], nets[2])


def test_the_table_has_every_figure_and_the_page_holds_the_stored_ones(publish, results):
    made = publish.block(results)
    for row in results.rows:
        assert f"| {row.method} |" in made
        assert publish.cell(row) in made
    stored = ROOT / "docs/generate.json"
    wanted = publish.block(Results.load(stored)) if stored.exists() else ""
    page = (ROOT / "docs/bench.md").read_text(encoding="utf-8")
    assert publish.filled(page, wanted) == page


def test_peers_that_were_left_out_are_in_the_notes(publish):
    found = {"versions": {"transformers": "4.57.6"}, "notes": {"a peer": "left out, it failed"}}
    assert publish.notes({"env": found}) == (
        "- a peer, with transformers 4.57.6: left out, it failed.\n"
    )
