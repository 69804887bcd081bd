"""bench/capture.py runs, its floor is the work it says, and its ratios are what they are called."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from steersman.evals.records import Results

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
TIMED = {
    "text": {"ours", "plain", "one_by_one", "floor"},
    "text_varied": {"ours", "plain", "floor"},
    "image": {"ours", "plain", "one_by_one", "floor"},
}


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "bench"))
        spec = importlib.util.spec_from_file_location("bench_capture", ROOT / "bench/capture.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look there
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    made = tmp_path_factory.mktemp("bench") / "capture.json"
    command = [sys.executable, ROOT / "bench/capture.py", "--quick", "--json", made]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Results.load(made)


@pytest.fixture(scope="module")
def quick(bench):
    """The shape, its model, and pairs of many lengths."""
    shape = bench.SHAPES["quick"]
    model = bench.build(shape, "cpu", dtype=torch.float32)
    return shape, model, bench.random_pairs(shape, 7, shortest=3, longest=9)


@pytest.mark.parametrize("split", TIMED)
def test_the_quick_run_times_every_way(results, split):
    rates = {r.method: r for r in results.select(split=split, metric="rows_per_second")}
    ratios = {r.method: r for r in results.select(split=split, metric="ratio_to_floor")}
    assert rates.keys() - {"ours_cached"} == TIMED[split]
    assert ratios.keys() == TIMED[split] - {"floor"}
    assert all(r.value > 0 and 1 <= r.n <= 8 for r in (*rates.values(), *ratios.values()))
    assert results.find("capture", "ours", split, "speedup_over_best_peer").value > 0


@pytest.mark.parametrize("split", ["text", "image"])
def test_reading_again_from_the_cache_is_faster_than_the_first_time(results, split):
    assert 0 < results.find("capture", "ours_cached", split, "ratio_to_first").value < 1


def test_memory_is_read_at_two_numbers_of_pairs(results):
    once = results.find("capture", "ours", "text", "peak_memory")
    fourfold = results.find("capture", "ours", "text", "peak_memory_4n")
    assert fourfold.n == 4 * once.n and fourfold.value >= once.value > 0
    added = (fourfold.value - once.value) * 2**20 / (2 * 3 * once.n * 256 * 4)
    assert results.find("capture", "ours", "text", "memory_growth").value == pytest.approx(added)


def test_the_file_says_how_the_floor_ran_and_on_what(results):
    assert results.meta["floor_batch"].keys() == TIMED.keys()
    assert results.meta["vision"] == "CLIP, 2 layers of width 32, 16 tokens"


def test_the_floor_runs_every_distinct_token_once_and_nothing_else(bench, quick):
    shape, model, pairs = quick
    ran = sum(rows * width for rows, width in bench.Floor(model, shape.layer, 40).batches(pairs))
    assert ran == sum(len(f"{p.prompt} {p.positive} {p.negative}".split()) for p in pairs)
    pair = bench.Pair("a b c d e f", "g h", "i j")
    batches = bench.Floor(model, shape.layer, 40).batches([pair] * 11)
    assert batches == [(4, 10), (4, 10), (3, 10)]


def test_the_floor_runs_the_blocks_up_to_the_one_that_is_read(bench, quick):
    shape, model, _ = quick
    floor = bench.Floor(model, shape.layer, 512)
    ids = torch.randint(4, 500, (3, 9))
    with torch.no_grad():
        whole = model(ids, output_hidden_states=True).hidden_states
        torch.testing.assert_close(floor.states((ids, None)), whole[shape.layer + 1])


def test_the_floor_sees_every_image_once(bench):
    shape, vision = bench.SHAPES["quick"], bench.TOWERS["quick"]
    model, _ = bench.build_llava(shape, vision, "cpu", dtype=torch.float32)
    floor = bench.Floor(model, shape.layer, 100, vision.tokens, vision.edge)
    seen = []
    model.get_decoder().layers[0].register_forward_pre_hook(
        lambda _, args: seen.append(tuple(args[0].shape))
    )
    images = []
    model.model.vision_tower.register_forward_hook(
        lambda _, args, kwargs, out: images.append(len((args or [kwargs["pixel_values"]])[0])),
        with_kwargs=True,
    )
    floor(bench.random_pairs(shape, 5))
    length = 24 + 4 + 4 + vision.tokens
    assert images == [2, 2, 1] and seen == [(n, length, shape.width) for n in images]


def test_ways_that_read_other_states_are_not_timed(bench, quick):
    shape, model, pairs = quick
    plain = bench.whole(model, bench.text_only(bench.tokenizer(shape)), shape.layer, 4)
    mine = bench.ours(bench.HFModel(model, bench.tokenizer(shape)), shape.layer)
    bench.check_agree({"plain": plain, "ours": mine}, pairs, torch.float32)
    shallow = bench.ours(bench.HFModel(model, bench.tokenizer(shape)), shape.layer - 1)
    swapped = lambda given: mine(given).roll(1, 0)  # noqa: E731
    for other in (shallow, swapped):
        with pytest.raises(SystemExit, match="other reads states that are"):
            bench.check_agree({"plain": plain, "other": other}, pairs, torch.float32)


def test_rounds_go_through_the_pairs_and_shuffle_the_ways(bench, quick):
    _, _, pairs = quick
    called = []
    runs = {name: (lambda given, name=name: called.append((name, given))) for name in "abcd"}
    split = bench.Split(7, 4, {"a": 7, "b": 3, "c": 2, "d": 1})
    seconds = bench.per_pair(runs, pairs, split, "cpu")
    assert [len(values) for values in seconds.values()] == [4] * 4
    of_b = [pair for name, given in called if name == "b" for pair in given]
    assert of_b == [*pairs, *pairs[:5]]
    orders = {tuple(name for name, _ in called[i : i + 4]) for i in range(0, 16, 4)}
    assert len(orders) > 1 and {frozenset(order) for order in orders} == {frozenset("abcd")}
    assert [split.num_read(name) for name in "abcd"] == [7, 7, 7, 4]


def test_fewer_pairs_leave_every_way_something_to_read(bench):
    for split in bench.SPLITS.values():
        few = split.limited(8)
        assert few.pairs == 8 and min(few.counts.values()) >= 1
        assert max(few.counts.values()) <= 8 and split.limited(10**6) == split


def test_the_best_other_way_is_found_in_every_round(bench):
    seconds = {
        "ours": [1.0, 2.0, 1.0],
        "floor": [0.5, 1.0, 1.0],
        "plain": [3.0, 10.0, 5.0],
        "repeng": [4.0, 8.0, 6.0],
    }
    made = list(bench.time_rows("text", seconds, dict.fromkeys(seconds, 9)))
    found = {(r.method, r.metric): r for r in made}
    best = found["ours", "speedup_over_best_peer"]
    assert (best.low, best.value, best.high, best.n) == (3.0, 4.0, 5.0, 9)
    assert found["ours", "ratio_to_floor"].value == 2.0
    assert found["floor", "rows_per_second"].value == 1.0


def test_a_peer_is_as_much_slower_than_plain_here_as_there(bench):
    there = {"plain": [2.0, 4.0, 1.0], "repeng": [3.0, 6.0, 2.0]}
    assert bench.chained([10.0, 20.0], there) == {"repeng": [15.0, 30.0]}


def test_a_peer_that_is_not_there_is_left_out_and_said_so(bench, quick, monkeypatch):
    from peers import capture

    shape, model, pairs = quick
    right = capture.whole(model, bench.text_only(bench.tokenizer(shape)), shape.layer, 2)
    monkeypatch.setitem(sys.modules, "repeng", None)
    monkeypatch.setitem(capture.PEERS, "right", lambda *_: right)
    monkeypatch.setitem(capture.PEERS, "wrong", lambda *_: lambda given: -right(given))
    monkeypatch.setattr(capture, "version", lambda _: "1.0")
    usable, notes = capture.prepared(["repeng", "right", "wrong"], model, shape, pairs)
    assert usable.keys() == {"plain", "right"}
    assert notes["repeng"].startswith("left out, ModuleNotFoundError")
    assert notes["wrong"].startswith("left out: its states are 2 of their norm")
    assert notes["right"] == "1.0, reads the states that transformers gives"


def test_every_way_reads_all_positive_lines_and_then_the_negative(bench):
    from peers.pairs import lines

    pairs = [bench.Pair("a b", "c", "d e"), bench.Pair("f", "g", "h")]
    texts = [line.text for line in lines(pairs)]
    assert texts == [f"{p.text} {p.completion}" for p in bench.prompts(pairs)]
    assert texts == ["a b c", "f g", "a b d e", "f h"]
