from dataclasses import replace

import pytest
import torch

import tiny
from steersman.core.errors import DataError
from steersman.data.prompts import to_prompt
from steersman.methods.contexts import read_contexts
from steersman.methods.prober import ProberFit
from toy import READ, rows

EXAMPLES = [ProberFit(read=READ, hidden=16, epochs=200, learning_rate=1e-2)]


def test_it_tells_rows_with_a_behaviour_from_rows_without():
    """On its own rows: that it can fit at all. Whether it generalises is measured on the world."""
    model, data = tiny.llama(), rows(24)
    gate = EXAMPLES[0].fit(model, data)
    p = gate.probability(read_contexts(model, data.rows, READ))
    wanted = torch.tensor([r.behaviour != "none" for r in data.rows])
    assert float(((p > 0.5) == wanted).float().mean()) > 0.9


def test_one_kind_of_row_is_refused():
    data = rows(24)
    only = replace(data, rows=tuple(r for r in data.rows if r.behaviour == "harmful"))
    with pytest.raises(DataError, match="all 8 rows are of one kind"):
        EXAMPLES[0].fit(tiny.llama(), only)


def test_the_threshold_of_the_recipe_is_the_gates():
    gate = replace(EXAMPLES[0], threshold=0.9, opening="graded").fit(tiny.llama(), rows(12))
    assert gate.threshold == 0.9 and gate.opening == "graded"
    assert to_prompt(rows(1).rows[0]).text
