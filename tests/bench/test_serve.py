"""bench/serve.py: its clients, its figures, their intervals and the model of costs are right."""

import asyncio
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _on_the_path():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "bench"))
        yield


class Recorded:
    """A server that answers at once, and keeps what it was asked."""

    def __init__(self, short: int = 0):
        self.asked, self.short, self.under_way, self.most = [], short, 0, 0

    async def send(self, prompt, steering, new):
        from serving.load import Piece

        self.asked.append((list(prompt), steering))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        for number in range(new - self.short):
            await asyncio.sleep(0)
            yield Piece([900 + number], cached=2)
        self.under_way -= 1


def ran(load, **given):
    from serving.load import run

    server = Recorded(**given)
    return server, asyncio.run(run(load, server.send))


def test_each_client_sends_its_next_request_when_the_last_is_answered():
    from serving.load import Load

    server, samples = ran(Load(3, 4, prompt=5, new=2))
    assert len(samples) == len(server.asked) == 12 and server.most == 3
    prompts = {tuple(prompt) for prompt, _ in server.asked}
    assert len(prompts) == 12 and {len(p) for p in prompts} == {5}
    assert all(3 <= token < 500 for p in prompts for token in p)


def test_equal_seeds_ask_the_same_whoever_is_steered():
    from serving.load import Load

    load = Load(2, 2, prompt=5, new=2, prefix=3)
    first, _ = ran(load)
    again, _ = ran(replace(load, steering=({"policy": "a"},)))
    other, _ = ran(replace(load, seed=1))
    assert [p for p, _ in first.asked] == [p for p, _ in again.asked]
    assert [p for p, _ in first.asked] != [p for p, _ in other.asked]


def test_the_prefix_is_shared_and_the_rest_is_not():
    from serving.load import Load

    server, _ = ran(Load(2, 2, prompt=5, new=2, prefix=7))
    assert len({tuple(p[:7]) for p, _ in server.asked}) == 1
    assert len({tuple(p[7:]) for p, _ in server.asked}) == 4


def test_a_next_turn_holds_the_last_prompt_and_its_answer():
    from serving.load import Load

    server, _ = ran(Load(1, 3, prompt=4, new=2, turns=True))
    first, second, third = (prompt for prompt, _ in server.asked)
    assert second[:6] == [*first, 900, 901] and len(second) == 10
    assert third[:12] == [*second, 900, 901] and len(third) == 16


def test_steering_is_dealt_out_to_clients_in_turn():
    from serving.load import Load

    load = Load(4, 1, prompt=2, new=1, steering=({"policy": "a"}, None))
    server, _ = ran(load)
    assert [steering for _, steering in server.asked] == [{"policy": "a"}, None] * 2
    assert Load.read(json.loads(json.dumps(load.plain()))) == load


def test_a_short_answer_is_an_error():
    from serving.load import Load

    with pytest.raises(RuntimeError, match="1 tokens, not 2"):
        ran(Load(1, 1, prompt=2, new=2), short=1)


def test_figures_are_those_of_the_definitions():
    from serving.load import Sample, figures

    samples = [Sample(0.0, 1.0, 4.0, 4, 10, 5), Sample(2.0, 5.0, 10.0, 6, 10, 0)]
    found = figures(samples)
    assert found["tokens_per_second"] == 1.0 and found["seconds_per_token"] == 1.0
    assert found["ttft"] == 2.0 and found["tpot"] == 1.0 and found["hits"] == 0.25
    assert "tpot" not in figures([Sample(0, 1, 1, 1, 3)])
    assert "hits" not in figures([Sample(0, 1, 1, 1, 3)])


def test_streamed_events_count_the_tokens_that_have_no_text():
    from serving.clients import pieces

    async def lines():
        yield ": a comment"
        yield 'data: {"choices": [{"text": ""}]}'
        yield 'data: {"choices": [{"text": "a"}]}'
        yield 'data: {"choices": [{"text": "b"}]}'
        usage = {"completion_tokens": 5, "prompt_tokens": 9}
        yield "data: " + json.dumps({"choices": [], "usage": usage})
        yield "data: [DONE]"

    async def taken():
        return [piece async for piece in pieces(lines())]

    got = asyncio.run(taken())
    assert [len(p.tokens) for p in got] == [1, 1, 3] and got[-1].prompt == 9


def test_an_error_in_a_stream_is_raised():
    from serving.clients import pieces

    async def lines():
        yield 'data: {"error": {"message": "not_steered"}}'

    async def taken():
        return [piece async for piece in pieces(lines())]

    with pytest.raises(RuntimeError, match="not_steered"):
        asyncio.run(taken())


def test_what_a_round_shares_cancels_in_its_ratio():
    from serving.spread import interval, ratios

    noise = [[1.0, 3.0, 9.0], [2.0, 7.0, 5.0]]
    found = ratios([[1.02 * n for n in s] for s in noise], noise)
    assert interval(found) == pytest.approx((1.02, 1.02, 1.02))


def test_the_interval_holds_what_lies_between_sittings():
    from serving.spread import interval

    far = [[1.0] * 20, [1.2] * 20]
    value, low, high = interval(far)
    assert value == pytest.approx(1.1) and (low, high) == pytest.approx((1.0, 1.2))
    _, low, high = interval([[1.0] * 20])
    assert (low, high) == (1.0, 1.0)


def test_the_interval_covers_the_median_about_as_often_as_it_says():
    import random

    from serving.spread import interval

    draw, inside = random.Random(0), 0
    for number in range(60):
        values = [[draw.gauss(1.0, 0.1) for _ in range(15)]]
        _, low, high = interval(values, seed=number)
        inside += low <= 1.0 <= high
    assert inside >= 51


def test_an_aim_that_the_interval_straddles_is_open():
    from serving.spread import flat, verdict

    assert verdict(0.9, 1.02, 0.02) == "held" and verdict(1.03, 1.1, 0.02) == "missed"
    assert verdict(0.99, 1.03, 0.02) == "open"
    assert flat(0.98, 1.01, 0.03) == "held" and flat(0.5, 0.9, 0.03) == "missed"
    assert flat(1.04, 1.1, 0.03) == "missed" and flat(0.9, 1.01, 0.03) == "open"


class Machine:
    """Costs what a formula says."""

    def __init__(self, per_request, per_prompt, per_new):
        self.costs, self.loads = (per_request, per_prompt, per_new), []

    def run(self, load):
        self.loads.append(load)
        a, p, n = self.costs
        spent = a + p * load.prompt + n * load.new
        return {"seconds_per_token": spent / load.new, "ttft": 1.0, "tokens_per_second": 1.0}


@pytest.fixture
def served():
    from serving.policies import TINY, Served

    return Served("tiny", Path("tiny"), TINY, (3, 512), 1024)


@pytest.fixture
def at_once(monkeypatch):
    from serving import rounds

    monkeypatch.setattr(rounds, "SETTLES", 0.0)


def test_costs_that_are_linear_are_found(served, at_once):
    from serving.cases import costs
    from serving.rounds import interleaved
    from serving.tables import coefficients

    servers = {"vanilla": Machine(0.5, 0.01, 0.1), "plugin": Machine(0.5, 0.02, 0.1)}
    runs = interleaved(servers, costs(served, 4), 2)
    assert coefficients(runs, "vanilla")[0] == pytest.approx([0.5, 0.01, 0.1])
    assert coefficients(runs, "l2s_probe")[1] == pytest.approx([0.5, 0.02, 0.1])


def test_all_cases_of_a_round_have_its_prompts_and_the_first_round_is_dropped(served, at_once):
    from serving.cases import base, steps
    from serving.rounds import interleaved
    from serving.tables import rows

    servers = {name: Machine(0.0, 0.0, 1.0) for name in ("vanilla", "again", "plugin")}
    cases = steps(base(served, 64, quick=True), again=True)
    runs = interleaved(servers, cases, 3)
    timed = [load for s in servers.values() for load in s.loads if load.seed >= 0]
    assert len(timed) == 4 * len(cases) and {load.seed for load in timed} == {0, 1, 2, 3}
    assert all(len(figures) == 3 for figures in runs.values())
    made = {(r.method, r.metric): r for r in rows("tiny-c64", [runs])}
    assert made["k64", "seconds_per_token_to_one"].value == 1.0
    assert made["static", "seconds_per_token_to_idle"].n == 3
    assert ("idle", "seconds_per_token_to_idle") not in made
    assert ("vanilla", "seconds_per_token_to_vanilla") not in made


def test_the_cases_at_64_clients_have_as_many_policies_and_strengths_as_they_say(served):
    from serving.cases import base, steps

    cases = steps(base(served, 64, quick=False), again=False)
    for name, policies, strengths in (
        *(("k1", 1, 1), ("k8", 8, 8), ("k64", 64, 64)),
        ("strengths64", 1, 64),
    ):
        load = cases[name].load
        asked = [load.client_steering(n) for n in range(load.concurrency)]
        assert len({s["policy"] for s in asked}) == policies
        assert len({s["strength"] for s in asked}) == strengths
        assert all(0.5 <= s["strength"] <= 1.5 for s in asked)


def said(made):
    from serving.tables import aims

    return {(r.method, r.metric.rpartition("_to_")[2]): verdict for r, _, verdict in aims(made)}


def timed(served, *, rounds, again=1.0):
    from serving.cases import base, steps
    from serving.rounds import interleaved
    from serving.tables import rows

    per_new = {"vanilla": 1.0, "again": again, "plugin": 1.03}
    servers = {name: Machine(0, 0, cost) for name, cost in per_new.items()}
    cases = steps(base(served, 64, quick=True), again=True)
    return list(rows("tiny-c64", [interleaved(servers, cases, rounds)]))


def test_aims_are_read_off_the_times_of_a_token(served, at_once):
    found = said(timed(served, rounds=6))
    assert found["idle", "vanilla"] == found["static", "vanilla"] == "missed"
    assert found["l2s", "vanilla"] == found["static", "idle"] == found["k64", "one"] == "held"


def test_few_rounds_and_what_lies_between_equal_engines_leave_an_aim_open(served, at_once):
    assert set(said(timed(served, rounds=5)).values()) == {"open"}
    found = said(timed(served, rounds=6, again=0.96))
    assert found["idle", "vanilla"] == found["l2s", "vanilla"] == "open"
    assert found["static", "idle"] == found["k64", "one"] == "held"


def test_policies_that_read_above_are_the_only_ones_that_need_a_pass_before(served):
    from serving.policies import steerers

    for name, steerer in steerers(served.shape).items():
        needs = steerer.needs_probe(0)
        assert needs == (name == "l2s_probe"), name


def fits(**costs):
    return {name: [[list(cost)] * 3] * 2 for name, cost in costs.items()}


def test_replicas_are_the_time_that_requests_take_by_the_time_there_is():
    from serving.model import Traffic, replicas, seconds

    known = fits(idle=(0.1, 0.001, 0.01), l2s=(0.1, 0.002, 0.01))
    plain = Traffic(1000, 100, 20, {}, load=0.5)
    assert seconds(plain, {"idle": (0.1, 0.001, 0.01)}) == pytest.approx(0.4)
    assert replicas(plain, known)[0] == math.ceil(1000 * 0.4 / 0.5 - 1e-9)
    half = replace(plain, shares={"l2s": 0.5})
    assert replicas(half, known)[0] in (900, 901)  # half of them cost 0.1 s more


def test_the_interval_of_replicas_comes_from_rounds_of_all_methods_together():
    from serving.model import Traffic, replicas

    together = {"idle": [[[1.0, 0, 0], [2.0, 0, 0], [3.0, 0, 0]]]}
    value, low, high = replicas(Traffic(10, 1, 1, {}, load=1.0), together)
    assert (value, low, high) == (20, 10, 30)


def test_what_was_not_measured_is_refused():
    from serving.model import Traffic, replicas

    with pytest.raises(ValueError, match="'mose' was not measured"):
        replicas(Traffic(1, 1, 1, {"mose": 1.0}), fits(idle=(1, 0, 0)))
    with pytest.raises(ValueError, match="at most 1"):
        Traffic(1, 1, 1, {"l2s": 0.6, "idle": 0.6})
