import numpy as np
import pytest
import torch
from scipy import stats

from steersman.core.errors import DataError
from steersman.methods.prober_quality import (
    auroc,
    calibration,
    cross_calibrated,
    figures,
    rate,
    reliability,
    threshold_for,
)


def overconfident(num=4000, factor=5.0, offset=1.0, seed=0):
    """Logits that are `factor` times too large and shifted, and what is so."""
    draw = torch.Generator().manual_seed(seed)
    true = torch.randn(num, generator=draw)
    positive = torch.rand(num, generator=draw) < true.sigmoid()
    return factor * true + offset, positive


def test_platt_finds_the_line_that_was_planted():
    line = calibration(*overconfident(), "platt")
    assert line.slope == pytest.approx(1 / 5, rel=0.1)
    assert line.offset == pytest.approx(-1 / 5, abs=0.1)


def test_platts_line_is_the_optimum_of_his_loss():
    logits, positive = overconfident(60)
    line, y = calibration(logits, positive, "platt"), positive.numpy()
    num = y.sum()
    target = np.where(y, (num + 1) / (num + 2), 1 / (len(y) - num + 2))
    z = logits.double().numpy()
    error = 1 / (1 + np.exp(-(line.slope * z + line.offset))) - target
    assert abs(error.mean()) < 1e-4 and abs((error * z).mean()) < 1e-3


@pytest.mark.parametrize("how", ["platt", "temperature"])
def test_calibration_lowers_the_error_on_other_rows(how):
    offset = 1.0 if how == "platt" else 0.0
    line = calibration(*overconfident(offset=offset), how)
    logits, positive = overconfident(offset=offset, seed=1)
    before, after = (reliability(p, positive)[1] for p in (logits.sigmoid(), line(logits)))
    assert before > 0.1 and after < 0.04


def test_a_temperature_keeps_one_half_and_none_keeps_all():
    assert calibration(*overconfident(), "temperature").offset == 0
    logits, positive = overconfident()
    assert torch.equal(calibration(logits, positive, "none")(logits), logits.sigmoid())


def test_calibration_never_reverses_the_order():
    logits, positive = overconfident(200)
    assert calibration(-logits, positive, "platt").slope > 0


def test_separable_rows_get_no_infinite_slope():
    logits = torch.tensor([-2.0, -1.0, 1.0, 2.0])
    p = calibration(logits, logits > 0, "platt")(logits)
    assert bool((p > 0.01).all()) and bool((p < 0.99).all())


def test_the_calibration_of_a_row_has_not_seen_its_group():
    logits, positive = overconfident(40)
    group = [i // 2 for i in range(40)]
    p = cross_calibrated(logits, positive, group, "platt")
    flipped = positive.clone()
    flipped[:2] = ~flipped[:2]
    again = cross_calibrated(logits, flipped, group, "platt")
    assert torch.equal(p[:2], again[:2]) and not torch.equal(p, again)


def test_groups_may_have_any_numbers():
    """Held-out rows keep the numbers of their groups, of which others were left out."""
    logits, positive = overconfident(40)
    group = torch.arange(40) // 2
    p = cross_calibrated(logits, positive, group.tolist(), "platt")
    for numbers in (5 * group, 100 - group):
        again = cross_calibrated(logits, positive, numbers.tolist(), "platt")
        assert not torch.allclose(again, logits.sigmoid(), atol=0.05)
    assert torch.equal(cross_calibrated(logits, positive, (5 * group).tolist(), "platt"), p)


@pytest.mark.parametrize(("n", "limit"), [(120, 0.05), (400, 0.1), (59, 0.05)])
def test_the_rate_is_kept_in_95_of_100_fits(n, limit):
    """Uniform scores: the share above a threshold is one minus the threshold."""
    draw = torch.Generator().manual_seed(0)
    fits = 500
    over = sum(
        1 - threshold_for(torch.rand(n, generator=draw), limit, range(n)) > limit
        for _ in range(fits)
    )
    assert over / fits <= 0.05 + 3 * (0.05 * 0.95 / fits) ** 0.5


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.95])
def test_the_rate_is_kept_where_rows_of_a_group_are_alike(alike):
    """60 groups of 4 normal scores that share a part: 240 rows tell less than 240."""
    draw, fits, over = np.random.default_rng(0), 500, 0
    group = [i // 4 for i in range(240)]
    for _ in range(fits):
        shared = np.repeat(draw.normal(size=60), 4)
        z = np.sqrt(alike) * shared + np.sqrt(1 - alike) * draw.normal(size=240)
        threshold = threshold_for(torch.tensor(stats.norm.cdf(z)), 0.1, group)
        over += 1 - threshold > 0.1
    assert over / fits <= 0.05 + 3 * (0.05 * 0.95 / fits) ** 0.5


def test_the_threshold_is_the_lowest_that_the_bound_allows():
    """By Clopper and Pearson's upper bound, from the same rows."""
    p = torch.linspace(0.001, 0.999, 200)
    value = threshold_for(p, 0.1, range(200))
    lower = float(p[p < value].max())
    above, one_more = (int((p > t).sum()) for t in (value, lower))
    assert stats.beta.ppf(0.95, above + 1, 200 - above) <= 0.1
    assert stats.beta.ppf(0.95, one_more + 1, 200 - one_more) > 0.1


def test_too_few_rows_say_how_many_are_needed():
    with pytest.raises(DataError, match=r"at least 59 held-out rows.*there are 58"):
        threshold_for(torch.rand(58), 0.05, range(58))
    assert threshold_for(torch.arange(59) / 60, 0.05, range(59)) == pytest.approx(58 / 60)


def test_scores_of_one_leave_no_threshold():
    with pytest.raises(DataError, match="probability 1"):
        threshold_for(torch.ones(100), 0.05, range(100))


def test_auroc_counts_pairs_and_ties_half():
    score = torch.tensor([0.1, 0.4, 0.4, 0.8, 0.9])
    positive = torch.tensor([False, False, True, True, False])
    pairs = [
        (float(p > n) + 0.5 * float(p == n)) for p in score[positive] for n in score[~positive]
    ]
    assert auroc(score, positive, range(5))[0] == pytest.approx(np.mean(pairs))


def test_the_interval_covers_the_truth_and_knows_groups():
    """AUROC of two unit normals a distance of 1 apart: Phi(1 / sqrt 2)."""
    truth, draw, fits = stats.norm.cdf(2**-0.5), torch.Generator().manual_seed(0), 300
    covered, naive = 0, 0
    for _ in range(fits):
        positive = torch.arange(40).remainder(2).bool()
        noise = torch.randn(40, generator=draw)
        score = (noise + positive.float()).repeat(4)  # every row four times
        group = list(range(40)) * 4
        _, low, high = auroc(score, positive.repeat(4), group)
        covered += low <= truth <= high
        _, low, high = auroc(score, positive.repeat(4), range(160))
        naive += low <= truth <= high
    assert covered / fits > 0.91 and naive / fits < 0.8


def test_a_perfect_auroc_does_not_claim_certainty():
    score = torch.arange(20.0)
    value, low, high = auroc(score, score >= 10, range(20))
    assert value == 1 and high == 1 and 0.7 < low < 0.95
    value, low, high = auroc(-score, score >= 10, range(20))
    assert value == 0 and low == 0 and 0.05 < high < 0.3


def test_calibration_error_by_hand():
    p = torch.tensor([0.1, 0.2, 0.7, 0.9])
    positive = torch.tensor([False, True, True, True])
    bins, ece = reliability(p, positive, 2)
    assert [b["n"] for b in bins] == [2, 2]
    assert bins[0]["p"] == pytest.approx(0.15) and bins[0]["rate"] == 0.5
    assert ece == pytest.approx((0.35 + 0.2) / 2)


def test_bins_are_of_equal_mass_and_at_most_as_many_as_rows():
    bins, _ = reliability(torch.rand(100), torch.rand(100) < 0.5)
    assert len(bins) == 15 and {b["n"] for b in bins} == {6, 7}
    assert len(reliability(torch.rand(3), torch.tensor([True, False, True]))[0]) == 3


def test_figures_are_rates_of_each_kind_with_wilson_intervals():
    p = torch.tensor([0.9, 0.2, 0.8, 0.6, 0.1, 0.3])
    positive = torch.tensor([True, True, True, False, False, False])
    kinds = ["text", "text", "image", "text", "image", None]
    made = figures(p, positive, opened=p > 0.5, kinds=kinds, group=range(6))
    found = {(r["name"], r["group"]): r for r in made}
    assert found["recall", "all"]["value"] == pytest.approx(2 / 3)
    assert found["recall", "text"]["value"] == 0.5 and found["recall", "text"]["n"] == 2
    assert found["false positives", "all"]["value"] == pytest.approx(1 / 3)
    assert found["false positives", "image"]["value"] == 0
    z, n, k = stats.norm.ppf(0.975), 3, 2
    centre = (k + z * z / 2) / (n + z * z)
    reach = z / (n + z * z) * np.sqrt(k * (n - k) / n + z * z / 4)
    assert found["recall", "all"]["low"] == pytest.approx(centre - reach)
    assert found["recall", "all"]["high"] == pytest.approx(centre + reach)
    assert {g for name, g in found if name == "AUROC"} == {"all", "text", "image"}


def test_the_interval_of_a_rate_is_wilsons_and_knows_groups():
    """Scores of a group are alike: 30 groups of 4 rows, whose rates vary by group."""
    for hits, n in ((0, 7), (3, 7), (7, 7)):
        by_scipy = stats.binomtest(hits, n).proportion_ci(method="wilson")
        assert rate(torch.arange(n) < hits, range(n)) == pytest.approx((hits / n, *by_scipy))
    draw, fits = np.random.default_rng(0), 400
    truth, group = 0.3, np.arange(120) // 4
    covered = {"groups": 0, "rows": 0}
    for _ in range(fits):
        p = draw.beta(0.3, 0.7, size=30)[group]
        hits = torch.tensor(draw.random(120) < p)
        for name, known in (("groups", group.tolist()), ("rows", range(120))):
            _, low, high = rate(hits, known)
            covered[name] += low <= truth <= high
    assert covered["groups"] / fits > 0.92 and covered["rows"] / fits < 0.87


def test_a_rate_of_one_counts_groups():
    certain = torch.ones(12, dtype=torch.bool)
    assert rate(certain, [i // 4 for i in range(12)]) == pytest.approx(rate(certain[:3], range(3)))
    assert rate(certain, [0] * 12)[1] < 0.25
