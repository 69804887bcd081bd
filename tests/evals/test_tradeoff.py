"""The trade-off: which recipes nothing beats, and what a loss is."""

import math

import pytest

from steersman.evals.records import Result, Results
from steersman.evals.report.canvas import Box, Label, places
from steersman.evals.report.tradeoff import (
    Axis,
    Point,
    Span,
    Trade,
    front,
    lost,
    trade_points,
    tradeoffs,
    usual_trades,
)

SAFETY = Trade(Axis("safety", "asr"), Axis("safety", "over_refusal"))
UTILITY = Trade(Axis("safety", "correct"), Axis("utility", "accuracy"))


def row(method: str, suite: str, metric: str, value: float, n: int = 100) -> Result:
    return Result(suite, method, "all", metric, value, value - 0.04, value + 0.06, n, 0)


def made(**values: tuple[float, float]) -> Results:
    """By method: correct behaviour and utility, and attack success and over-refusal."""
    rows = []
    for method, (effect, cost) in values.items():
        rows.append(row(method, "safety", "correct", effect))
        rows.append(row(method, "utility", "accuracy", 0.9 - cost))
        rows.append(row(method, "safety", "asr", 1 - effect))
        rows.append(row(method, "safety", "over_refusal", cost))
    return Results(tuple(rows))


def at(method: str, effect: float, cost: float) -> Point:
    return Point(method, Span(effect, effect, effect), Span(cost, cost, cost))


def test_the_front_is_what_nothing_beats():
    points = [
        at("none", 0.3, 0.0),
        at("same-cost-less-effect", 0.2, 0.0),
        at("good", 0.8, 0.1),
        at("twin", 0.8, 0.1),
        at("same-effect-more-cost", 0.8, 0.2),
        at("best-effect", 0.9, 0.3),
        at("p2s", 1.0, 0.0),
    ]
    assert front(points) == ("none", "good", "twin", "best-effect")


def test_less_attack_success_is_more_effect():
    points = trade_points(made(none=(0.4, 0.0), l2s=(0.75, 0.1)), SAFETY)
    assert [p.method for p in points] == ["none", "l2s"]
    effect, cost = points[1].effect, points[1].cost
    assert (effect.value, effect.low, effect.high) == pytest.approx((0.75, 0.69, 0.79))
    assert (cost.value, cost.low, cost.high) == pytest.approx((0.1, 0.06, 0.16))


def test_a_loss_is_against_the_unsteered_model_with_both_errors():
    points = trade_points(made(none=(0.4, 0.0), l2s=(0.75, 0.1)), UTILITY)
    assert points[0].cost == Span(0.0, 0.0, 0.0)
    loss = points[1].cost
    # Newcombe 1998, method 10, from [0.86, 0.96] around 0.9 and [0.76, 0.86] around 0.8
    assert loss.value == pytest.approx(0.1)
    assert loss.low == pytest.approx(0.1 - math.sqrt(0.04**2 + 0.06**2))
    assert loss.high == pytest.approx(0.1 + math.sqrt(0.06**2 + 0.04**2))
    assert lost(Span(0.9, 0.8, 0.91), Span(0.9, 0.85, 0.95)).low == pytest.approx(
        -math.sqrt(0.1**2 + 0.05**2)
    )
    assert trade_points(made(l2s=(0.75, 0.1), caa=(0.5, 0.0)), UTILITY) == ()


def test_undefined_figures_and_lone_methods_are_no_plot():
    results = made(none=(0.4, 0.0))
    assert tradeoffs(results, "l2s") == ()
    undefined = [
        Result("safety", "l2s", "all", metric, 0.5, 0.0, 1.0, 0, 0)
        for metric in ("asr", "over_refusal")
    ]
    assert tradeoffs(Results((*results.rows, *undefined)), "l2s", [SAFETY]) == ()


def test_few_recipes_are_named_and_many_are_numbered():
    few = tradeoffs(made(none=(0.4, 0.0), caa=(0.6, 0.2), l2s=(0.9, 0.1)), "l2s")
    assert [p.wide for p in few] == [False, False]
    assert "Not dominated: Unsteered, L2S." in few[0].alt and ">caa<" in few[0].svg
    many = {f"m{i}": (0.5 + i / 100, 0.3 + i / 100) for i in range(20)}
    plot = tradeoffs(made(none=(0.4, 0.0), l2s=(0.9, 0.1), **many), "l2s", [UTILITY])[0]
    assert plot.wide and "Numbers are named at the side" in plot.caption
    assert plot.svg.count(">m7<") == 1 and plot.svg.count(">8<") == 2
    assert "m7 57% and 37%" in plot.alt
    assert plot == tradeoffs(made(none=(0.4, 0.0), l2s=(0.9, 0.1), **many), "l2s", [UTILITY])[0]


def test_pope_is_set_against_the_utility_that_was_measured(results):
    assert usual_trades(results)[2].cost.suite == "utility"
    side = [*results.rows, row("none", "utility-pope", "accuracy", 0.9)]
    assert usual_trades(Results(tuple(side)))[2].cost.suite == "utility-pope"


def test_names_hide_neither_points_nor_each_other():
    spots = [(0.5 + 0.35 * (i % 6), 0.5 + 0.3 * (i // 6)) for i in range(30)]
    labels = [Label(str(i), x, y, 7.5) for i, (x, y) in enumerate(spots)]
    marks = [Box(x - 0.06, y - 0.06, x + 0.06, y + 0.06) for x, y in spots]
    boxes = [p.box for p in places(labels, width=3.2, height=2.6, points=marks, lines=[])]
    for i, box in enumerate(boxes):
        assert box.left >= 0 and box.right <= 3.2 and box.bottom >= 0 and box.top <= 2.6
        assert not any(box.overlap(other) for other in (*marks, *boxes[:i]))
