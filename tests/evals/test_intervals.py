"""Intervals against published values, against scipy, and where a bootstrap would lie."""

import numpy as np
import pytest
from scipy import stats

from steersman.core.errors import DataError
from steersman.evals.intervals import f1, mean, paired, pool, rate
from steersman.evals.records import Result, Results


def test_wilson_of_ninety_in_a_hundred() -> None:
    estimate = rate(90, 100)
    assert estimate[:3] == pytest.approx((0.9, 0.8256, 0.9448), abs=5e-5)
    assert estimate.n == 100


@pytest.mark.parametrize(("hits", "n"), [(0, 40), (1, 7), (13, 40), (40, 40), (900, 900)])
def test_wilson_equals_scipy(hits: int, n: int) -> None:
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert rate(hits, n)[1:3] == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_perfect_score_is_not_certain() -> None:
    assert rate(40, 40).low < 0.92
    assert f1(40, 0, 0, 80).low < 0.96
    assert f1(40, 0, 0, 80).high == 1.0


def test_nothing_measured_excludes_nothing() -> None:
    assert rate(0, 0) == (0.0, 0.0, 1.0, 0)
    assert f1(0, 0, 0, 12) == (0.0, 0.0, 1.0, 0)
    assert mean([]).n == 0


def test_more_hits_than_answers_is_refused() -> None:
    with pytest.raises(DataError):
        rate(3, 2)


def test_f1_by_hand_and_against_a_bootstrap() -> None:
    assert f1(3, 1, 2, 10).value == pytest.approx(2 / 3)
    estimate = f1(120, 40, 40, 400)
    assert estimate.value == pytest.approx(0.75)
    kinds = np.repeat([0, 1, 2, 3], [120, 40, 40, 200])
    rng = np.random.default_rng(0)
    drawn = rng.choice(kinds, size=(4000, len(kinds)))
    hits, misses = (drawn == 0).sum(1), ((drawn == 1) | (drawn == 2)).sum(1)
    low, high = np.quantile(2 * hits / (2 * hits + misses), [0.025, 0.975])
    assert estimate.low == pytest.approx(low, abs=0.01)
    assert estimate.high == pytest.approx(high, abs=0.01)


def test_mean_is_seeded_and_bounded_by_its_sample() -> None:
    values = list(np.random.default_rng(1).normal(5, 1, size=200))
    first = mean(values, seed=3)
    assert first == mean(values, seed=3)
    assert first.low < 5 < first.high
    assert first.high - first.low == pytest.approx(2 * 1.96 / np.sqrt(200), rel=0.15)
    assert mean([2.0, 2.0]) == (2.0, 2.0, 2.0, 2)
    assert mean([7.0]) == (7.0, 7.0, 7.0, 1)


def test_paired_is_mcnemars_exact_test() -> None:
    a = [True] * 10 + [False] * 8 + [True] * 2
    b = [True] * 10 + [True] * 8 + [False] * 2
    found = paired(a, b)
    assert (found.n, found.only_a, found.only_b) == (20, 2, 8)
    assert found.difference == pytest.approx(0.3)
    assert found.p_value == pytest.approx(0.109375)
    assert paired(a, a).p_value == 1.0
    with pytest.raises(DataError, match="cannot be paired"):
        paired(a, b[:-1])


def seeds(values: list[float], n: int, metric: str = "asr") -> Results:
    rows = []
    for seed, value in enumerate(values):
        _, low, high, _ = rate(value * n, n)
        rows.append(Result("safety", "l2s", "all", metric, value, low, high, n, seed))
    return Results(tuple(rows))


def test_three_fits_on_the_same_items_do_not_make_more_items() -> None:
    same = pool(seeds([0.9, 0.9, 0.9], 100)).rows[0]
    assert (same.value, same.n, same.seed) == (pytest.approx(0.9), 100, None)
    assert (same.low, same.high) == pytest.approx(rate(90, 100)[1:3])


def test_distinct_items_add_up() -> None:
    added = pool(seeds([0.9, 0.9, 0.9], 100), distinct=True).rows[0]
    assert added.n == 300
    assert (added.low, added.high) == pytest.approx(rate(270, 300)[1:3])


def test_seeds_that_disagree_widen_the_interval() -> None:
    row = pool(seeds([0.8, 0.9, 1.0], 400), distinct=True).rows[0]
    half = stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert row.low == pytest.approx(0.9 - half)
    assert row.high == 1.0


def test_one_seed_and_undefined_values_pass_through() -> None:
    alone = seeds([0.5], 10)
    assert pool(alone).rows == alone.rows
    undefined = Result("pope", "l2s", "all", "precision", 0.0, 0.0, 1.0, 0, 0)
    known = Result("pope", "l2s", "all", "precision", 0.8, 0.7, 0.9, 50, 1)
    both = pool(Results((undefined, known))).rows[0]
    assert (both.value, both.n) == (0.8, 50)
    never = pool(Results((undefined, Result(*undefined.key[:4], 0.0, 0.0, 1.0, 0, 1)))).rows[0]
    assert (never.n, never.low, never.high) == (0, 0.0, 1.0)
