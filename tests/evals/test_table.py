"""Grids and the tables printed from them."""

import io

import pytest
from rich.console import Console

from steersman.core.errors import DataError
from steersman.evals.intervals import pool
from steersman.evals.layout import grids, method_order
from steersman.evals.records import Result, Results
from steersman.evals.table import rich_tables, table


def test_markdown_has_values_intervals_and_counts(results: Results) -> None:
    text = table(pool(results))
    assert "**Safety: all requests**" in text
    assert "| Method | All: Correct behaviour (n 100) |" in text
    assert "| Unsteered | 0.400 [0.350, 0.450] |" in text
    assert "| P2S * |" in text
    for block in text.split("\n\n"):
        widths = {line.count("|") for line in block.splitlines() if line.startswith("|")}
        assert len(widths) <= 1


def test_the_best_is_marked_and_an_oracle_never_is(results: Results) -> None:
    grid = grids(pool(results))[0]
    column = [c.metric for c in grid.columns].index("correct")
    best = {line.method: line.cells[column].best for line in grid.lines}
    assert best == {"none": False, "mean": False, "l2s": True, "p2s": False}
    asr = [c.metric for c in grid.columns].index("asr")
    assert [line.method for line in grid.lines if line.cells[asr].best] == ["l2s"]


def test_equal_values_undefined_values_and_gaps(make_result) -> None:
    rows = (
        make_result("pope", "none", "all", "f1", 0.5),
        make_result("pope", "mean", "all", "f1", 0.5),
        Result("pope", "none", "all", "precision", 0.0, 0.0, 1.0, 0, 0),
        make_result("pope", "mean", "all", "precision", 0.4, n=20),
        make_result("pope", "mean", "all", "recall", 0.4),
    )
    grid = grids(Results(rows))[0]
    assert not any(cell.best for line in grid.lines for cell in line.cells)
    assert grid.columns[0].n is None  # precision: 0 and 20 answers
    text = table(Results(rows))
    assert "–" in text and "n 20" in text


def test_methods_keep_their_order(make_result) -> None:
    names = ("p2s", "mine", "l2s", "none", "autosteer")
    rows = Results(tuple(make_result("safety", m, "all", "correct", 0.5) for m in names))
    assert method_order(rows) == ("none", "l2s", "autosteer", "mine", "p2s")


def test_a_suite_of_ones_own_is_shown_too() -> None:
    row = Result("latency", "hf", "batch 8", "tokens_per_second", 812.4, 800.0, 820.0, 30, 0)
    text = table(Results((row,)))
    assert "812.4 [800, 820]" in text and "Tokens per second" in text


def test_several_seeds_must_be_pooled_first(results: Results) -> None:
    with pytest.raises(DataError, match="Pool them first"):
        table(results)


def test_rich_tables_print(results: Results) -> None:
    file = io.StringIO()
    console = Console(file=file, width=200)
    for made in rich_tables(pool(results)):
        console.print(made)
    assert "Unsteered" in file.getvalue() and "0.400" in file.getvalue()


def test_columns_of_kinds_and_of_kept_answers(make_result) -> None:
    rows = [make_result("safety", m, "image", "over_refusal", 0.1) for m in ("none", "l2s")]
    rows += [make_result("utility", m, "all", "unchanged", 0.9) for m in ("none", "l2s")]
    by_kind, kept = grids(Results(tuple(rows)))
    assert by_kind.headings == (("By image", 1),) and by_kind.columns[0].title == "Over-refusal"
    assert kept.columns[0].title == "Answers unchanged"
    assert not any(cell.best for line in kept.lines for cell in line.cells)
