"""What the page shows of a fit: every record, in numbers for those who cannot see the picture."""

import re
from pathlib import Path

import numpy as np

from fitted import ALL, EXPERTS, LAYERS, QUALITY, SCORES, TRAINING
from page import ATTACK, Page
from steersman.evals.fit_records import read
from steersman.evals.records import Results
from steersman.evals.report import render
from steersman.evals.report.fits import steps

OTHER = {"kind": "heads", "heads": [[3, 1]], "alpha": 0.25}


def drawn(record: dict):
    return steps(read([record]), "f")[0]


def test_pictures_say_their_numbers():
    layers = drawn(LAYERS).plots[0]
    assert "Layer 4 is not distinguishable from layer 5" in layers.alt
    assert "layer 3 0.10 [0.05, 0.15]" in layers.alt
    assert "harmful 2 of 3 above; none 0 of 2 above" in drawn(SCORES).plots[0].alt
    assert "at 10% 0% of 4; at 90% 100% of 6" in drawn(QUALITY).plots[0].alt
    assert "harmful 0.90, 0.10" in drawn(EXPERTS).plots[0].alt
    assert "epoch 1 kept (train 0.20, validation 0.30)" in drawn(TRAINING).plots[0].alt


def test_quality_is_a_table_by_kind_of_request():
    sheet = drawn(QUALITY).sheets[0]
    assert sheet.head == ("Rows", "AUROC", "recall")
    assert sheet.rows == (
        ("all", "0.97\n[0.90, 1.00]\nn 90", "–"),
        ("text", "–", "0.80\n[0.70, 0.90]\nn 30"),
    )
    assert "0.034" in sheet.caption
    without = drawn({**QUALITY, "ece": None, "reliability": []})
    assert not without.plots and "calibration" not in without.sheets[0].caption


def test_unknown_and_broken_records_are_tables():
    assert drawn(OTHER).sheets[0].rows == (("heads", "[[3, 1]]"), ("alpha", "0.25"))
    broken = drawn({**TRAINING, "train": "none"})
    assert ("what", "net") in broken.sheets[0].rows and "not drawn" in broken.sentence
    more = drawn({**EXPERTS, "seed": 3})
    assert more.plots and more.sheets[0].rows == (("seed", "3"),)


def test_edges_of_what_can_be_drawn():
    many = np.linspace(0, 1, 300).tolist()
    deep = {k: list(range(80)) for k in ("layers", "value", "low", "high")}
    for record in (
        {**LAYERS, **deep, "chosen": 79, "runner_up": 0},
        {**LAYERS, **{k: [1] for k in deep}, "chosen": 1, "runner_up": None},
        {**LAYERS, "low": [0.2] * 3},  # an interval that leaves out its value, as a jackknife may
        {**SCORES, "groups": {str(i): many for i in range(12)}},
        {**SCORES, "groups": {"one": [0.5]}},
        {**SCORES, "threshold": 7.0},
        {**SCORES, "groups": {"none": []}},
        {**QUALITY, "reliability": [{"p": 0.5, "rate": 0.5, "n": 0}]},
        {**EXPERTS, "experts": 1, "sizes": [4], "usage": {}, "scores": {}},
        {**EXPERTS, "experts": 16, "sizes": [1] * 16, "usage": {"a": [-1.0] * 16}},
        {**TRAINING, "train": [1e4, 1.0], "validation": [], "kept": 5},
        {**TRAINING, "train": [0.0], "validation": [0.0], "kept": None},
        {**TRAINING, "train": []},
    ):
        assert drawn(record).sentence


def test_losses_over_decades_have_plain_numbers_on_their_axis():
    steep = drawn({**TRAINING, "train": [1.0, 0.1, 0.001], "validation": [], "kept": None})
    assert ">0.01<" in steep.plots[0].svg and "math" not in steep.plots[0].svg


def test_the_page_has_a_section_for_each_recipe(tmp_path: Path):
    hostile = {"kind": ATTACK, ATTACK: ATTACK}
    groups = {**SCORES, "groups": {ATTACK: [0.1], "$x^$": [0.9]}, "score": "$_$"}
    path = render(
        Results(),
        out=tmp_path / "fit.html",
        title="t",
        fits={"l2s": read([*ALL, OTHER]), "b": read([LAYERS]), ATTACK: read([hostile, groups])},
    )
    text = path.read_text(encoding="utf-8")
    found = Page(text)
    assert len(found.all("details")) == 3
    assert not any("open" in attrs for attrs in found.all("details"))
    assert ATTACK not in text and "<script" not in text and "$x^$" in text
    assert "not distinguishable from layer 5" in text and ">0.25<" in text
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert len(found.all("caption")) == len(found.all("table"))
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    assert "Results</h2>" not in text


def test_names_in_any_script_are_drawn_as_they_are(tmp_path):
    """Not a warning for every letter that the measuring font lacks; and never as markup."""
    entries = read([{**SCORES, "groups": {"有害 <b>x</b>": [0.9], "$x^{$": [0.1]}}])
    out = render(Results(), out=tmp_path / "page.html", title="t", fits={"<i>": entries})
    page = out.read_text(encoding="utf-8")
    assert "有害 &lt;b&gt;x" in page and "$x^{$" in page
    assert "<b>x" not in page and "<i>" not in page
