import numpy as np
import pytest
import torch

from steersman.core.errors import DataError, RecipeError
from steersman.core.fitlog import FitLog
from steersman.data.rows import Row
from steersman.methods.threshold import best_cut, hold_out, log_cut
from tiny import picture
from toy import rows


def paired(num=40):
    """Pairs of a row to steer and one to leave alone; some pairs share an image with another."""
    made = []
    for i in range(num):
        behaviour = ("harmful", "none")[i % 2]
        image = picture(i // 8) if i % 4 == 0 else None
        labels = {"pair": f"p{i // 2}", "kind": ("text", "image")[i % 4 // 2]}
        made.append(Row(id=f"{i}", prompt="a", behaviour=behaviour, image=image, labels=labels))
    return made


def test_no_pair_and_no_image_lies_on_both_sides():
    data = paired()
    for seed in range(20):
        kept, held = hold_out(data, range(0, 40, 2), share=0.25, seed=seed)
        assert sorted(kept + held) == list(range(40))
        for name in ("pair", "image"):
            sides = [
                {
                    r.labels["pair"] if name == "pair" else r.image and r.image.tobytes()
                    for r in (data[i] for i in side)
                }
                for side in (kept, held)
            ]
            assert not (sides[0] & sides[1]) - {None}


def test_a_picture_that_was_copied_does_not_lie_on_both_sides(tmp_path):
    """Two files of the same bytes are one picture, whatever they are called."""
    data = []
    for i in range(40):
        path = tmp_path / f"{i}.png"
        picture(i // 4).save(path)
        data.append(Row(id=str(i), prompt="a", behaviour=("harmful", "none")[i % 2], image=path))
    for seed in range(5):
        kept, held = hold_out(data, range(0, 40, 2), share=0.25, seed=seed)
        assert not {i // 4 for i in kept} & {i // 4 for i in held}


def test_the_share_is_of_either_kind():
    data = rows(24).rows
    steered = [i for i, row in enumerate(data) if row.behaviour != "none"]
    _, held = hold_out(data, steered, share=0.25, seed=0)
    kinds = [data[i].behaviour != "none" for i in held]
    assert kinds.count(True) >= 4 and kinds.count(False) >= 2
    assert held == hold_out(data, steered, share=0.25, seed=0)[1]
    assert held != hold_out(data, steered, share=0.25, seed=1)[1]


def test_one_group_cannot_be_split():
    data = [
        Row(id=str(i), prompt="a", behaviour=b, labels={"pair": "x"})
        for i, b in enumerate(("harmful", "none"))
    ]
    with pytest.raises(DataError, match="2 rows in 1 groups"):
        hold_out(data, [0], share=0.5, seed=0)
    with pytest.raises(RecipeError, match=r"held_out is 1\.0"):
        hold_out(data, [0], share=1.0, seed=0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("comparator", ["larger", "smaller"])
def test_no_other_threshold_has_a_better_f1(seed, comparator):
    draw = np.random.default_rng(seed)
    positive = draw.random(60) < 0.4
    sign = 1 if comparator == "larger" else -1
    scores = np.round(draw.normal(size=60) + sign * positive, 1)  # with ties
    cut = best_cut(torch.tensor(scores), torch.tensor(positive), (comparator,))
    by_hand = []
    for theta in np.arange(-4, 4, 0.05):
        opened = scores > theta if comparator == "larger" else scores < theta
        if 0 < opened.sum() < 60:
            by_hand.append(2 * (opened & positive).sum() / (opened.sum() + positive.sum()))
    assert cut.f1 == pytest.approx(max(by_hand))
    opened = scores > cut.threshold if comparator == "larger" else scores < cut.threshold
    assert cut.f1 == pytest.approx(2 * (opened & positive).sum() / (opened.sum() + positive.sum()))


def test_the_side_that_opens_is_searched_too():
    scores, positive = torch.tensor([0.1, 0.2, 0.8, 0.9]), torch.tensor([True, True, False, False])
    cut = best_cut(scores, positive, ("larger", "smaller"))
    assert (cut.comparator, cut.f1) == ("smaller", 1.0) and cut.threshold == pytest.approx(0.5)


def test_equal_scores_tell_nothing():
    with pytest.raises(DataError, match="same score"):
        best_cut(torch.ones(4), torch.tensor([True, False, True, False]))


def test_the_record_holds_rates_by_kind():
    data = paired(8)
    positive = torch.tensor([True, False] * 4)
    scores = torch.tensor([0.9, 0.1, 0.8, 0.7, 0.6, 0.2, 0.3, 0.25])
    log = FitLog()
    cut = best_cut(scores, positive)
    log_cut(log, cut, data, scores, positive, gate="g", score="cosine")
    kinds, table = log.records
    assert kinds["groups"]["to steer"] == pytest.approx([0.9, 0.8, 0.6, 0.3])
    rates = {(r["name"], r["group"]): (r["value"], r["n"]) for r in table["rows"]}
    # Cut between .25 and .3: all four harmful rows open, and one of the others (an image row).
    assert rates["recall", "all"] == (1.0, 4)
    assert rates["false positives", "all"] == (0.25, 4)
    assert rates["false positives", "image"] == (0.5, 2)
    assert rates["false positives", "text"] == (0.0, 2)
    assert rates["AUROC", "all"] == (pytest.approx(14 / 16), 8)
    assert all(0 <= r["low"] <= r["value"] <= r["high"] <= 1 for r in table["rows"])


def test_rows_that_a_cut_parts_perfectly_leave_room_for_doubt():
    """Hanley and McNeil's interval has no width at 1; and copies of a row are worth one row."""
    data = paired(8)
    positive = torch.tensor([True, False] * 4)
    scores = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.4])
    lows = []
    for copies in (1, 5):
        log = FitLog()
        some = scores.repeat(copies), positive.repeat(copies)
        log_cut(log, best_cut(*some), data * copies, *some, gate="g", score="cosine")
        rows = {(r["name"], r["group"]): r for r in log.records[1]["rows"]}
        assert rows["AUROC", "all"]["value"] == 1 and rows["AUROC", "all"]["low"] < 0.95
        lows.append(rows["recall", "all"]["low"])
    assert lows[1] == pytest.approx(lows[0]) and lows[0] < 0.6
