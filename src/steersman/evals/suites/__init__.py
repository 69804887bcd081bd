"""What is measured: one module per suite, found by the name that a dataset gives in its meta."""

from steersman.core.errors import DataError, nearest
from steersman.data.rows import Dataset
from steersman.evals.suites.base import Measured, Suite, Verdict
from steersman.evals.suites.pope import Pope
from steersman.evals.suites.safety import Safety
from steersman.evals.suites.utility import Utility

__all__ = ["Measured", "Suite", "Verdict", "suite_for"]

SUITES: tuple[Suite, ...] = (Safety(), Pope(), Utility())


def suite_for(dataset: Dataset) -> Suite:
    """The suite that judges this dataset.

    Raises:
        DataError: `dataset.json` names none, or one that does not exist.
    """
    name = dataset.meta.get("suite")
    known = {suite.name: suite for suite in SUITES}
    if name not in known:
        raise DataError(
            f"{dataset.source}: dataset.json must name its suite to be evaluated, and has "
            f"{name!r}.{nearest(str(name), known)}"
        )
    return known[name]
