"""Which rows are steered, and what is said where a name is misspelt on either side."""

import pytest

from steersman.core.errors import DataError
from steersman.data.rows import Row
from steersman.methods.contexts import two_sides

ROWS = [Row(id=str(i), prompt="a", behaviour=b) for i, b in enumerate(("harm", "expert", "none"))]


def test_named_behaviours_are_steered_and_all_others_left_alone():
    assert two_sides(ROWS) == ([0, 1], [2])
    assert two_sides(ROWS, ("harm",)) == ([0], [1, 2])


@pytest.mark.parametrize(
    ("rows", "behaviours", "says"),
    [
        (ROWS, ("expart",), "No row has the behaviour 'expart'. Did you mean 'expert'"),
        ([*ROWS, Row(id="x", prompt="a", behaviour="harmm")], ("harm",), "Rows have .*'harmm'"),
        (ROWS[:2], (), "all 2 rows are of one kind"),
        (ROWS[2:], (), "all 1 rows are of one kind"),
    ],
)
def test_a_side_that_is_missing_or_misspelt_is_told(rows, behaviours, says):
    with pytest.raises(DataError, match=says):
        two_sides(rows, behaviours)
