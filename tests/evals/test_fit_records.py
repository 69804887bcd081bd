"""Records of a fit: put into words that claim no more than they hold, and never dropped."""

import pytest

from fitted import EXPERTS, LAYERS, QUALITY, SCORES, TRAINING
from steersman.core.errors import DataError
from steersman.evals.fit_records import (
    ExpertUsage,
    LayerScores,
    Other,
    of_provenance,
    plain,
    read,
    short,
)


def said(record: dict) -> str:
    return read([record])[0].said


def test_each_kind_in_a_sentence():
    assert said(LAYERS) == (
        "layer 4 by sas 0.35 [0.30, 0.41], not distinguishable from layer 5 "
        "(difference 0.012 [-0.03, 0.05]); 90 pairs in 30 clusters"
    )
    assert said({**LAYERS, "distinct": True}).count("ahead of layer 5") == 1
    assert "the only one tried" in said({**LAYERS, "runner_up": None})
    assert said(SCORES) == "gate prober: probability above 0.50 for 2 of 3 harmful, 0 of 2 none"
    assert said(QUALITY) == (
        "gate prober at 0.50: AUROC 0.97 [0.90, 1.00] (n 90), calibration error 0.034"
    )
    assert said(EXPERTS) == "2 experts of 40, 60 rows; Calinski-Harabasz K=2 212, K=3 180"
    assert said(TRAINING) == "net: 3 epochs, epoch 1 kept (train 0.20, validation 0.30)"


def test_an_unknown_kind_is_kept():
    entry = read([{"kind": "heads", "heads": [[3, 1], [4, 0]], "alpha": 0.25}])[0]
    assert entry.record == Other("heads", "", {"heads": [[3, 1], [4, 0]], "alpha": 0.25})
    assert entry.said == "heads: heads [[3, 1], [4, 0]], alpha 0.25"
    assert read([{"x": 1}])[0].said == "record: x 1"


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({**LAYERS, "value": [0.1]}, "3 layers, 1 value, 3 low, 3 high"),
        ({**LAYERS, "chosen": 9}, "layer 9 is chosen and has no score"),
        ({**LAYERS, "chosen": "4"}, "this field needs a int"),
        ({k: v for k, v in SCORES.items() if k != "threshold"}, "threshold"),
        ({**EXPERTS, "sizes": [1]}, "sizes has 1 values for 2 experts"),
        ({**EXPERTS, "usage": {"harmful": [1.0]}}, "harmful has 1 values"),
        ({**EXPERTS, "scores": {"four": 1.0}}, "by number of clusters, not by 'four'"),
        ({**EXPERTS, "experts": 0, "sizes": [], "usage": {}}, "0 experts"),
        ({**QUALITY, "reliability": [{"p": 0.1, "rate": -0.5, "n": 4}]}, "-0.5 of 4 rows"),
        ({**TRAINING, "train": [float("nan")]}, "not a finite number"),
    ],
)
def test_a_record_that_does_not_fit_is_kept_and_says_why(record, problem):
    entry = read([record])[0]
    assert isinstance(entry.record, Other)
    assert problem in entry.record.problem and problem in entry.said
    assert set(entry.record.values) == set(record) - {"kind"}


def test_more_values_than_a_kind_lists_are_kept():
    entry = read([{**EXPERTS, "seed": 3}])[0]
    assert isinstance(entry.record, ExpertUsage)
    assert entry.more == {"seed": 3} and entry.said.endswith("; seed 3")


def test_a_policy_has_records_as_a_list_or_by_steerer():
    assert of_provenance({}) == {}
    assert isinstance(of_provenance({"fit": [LAYERS]})[""][0].record, LayerScores)
    several = of_provenance({"fit": {"safety": [LAYERS, SCORES], "hallucination": []}})
    assert {name: len(entries) for name, entries in several.items()} == {"safety": 2}
    for wrong in ("x", [1], {"safety": "x"}):
        with pytest.raises(DataError, match="list of records"):
            of_provenance({"fit": wrong})


def test_numbers_have_the_digits_a_reader_needs():
    said = {0.0: "0.00", 0.012345: "0.012", 0.5: "0.50", 0.9967: "0.997", -12.3456: "-12.35"}
    said |= {1.0: "1.00", 1234.4: "1234", 2.5e7: "2.5e+07"}
    assert {x: plain(x) for x in said} == said
    assert short({"a": [True, None, 0.123456]}) == "a: [yes, none, 0.1235]"
    assert len(short("x" * 999)) == 160
