"""What a suite is: it judges answers one by one and turns verdicts into figures."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from steersman.core.errors import DataError, nearest
from steersman.data.rows import Row
from steersman.evals import intervals
from steersman.evals.intervals import Estimate
from steersman.evals.suites.text import repetition, words

UNPARSED = "unparsed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer was taken for.

    Attributes:
        label: the behaviour or answer seen; `unparsed` or `other` where none was, never a guess.
        wanted: the label, or the reference, that would have been right.
        group: what the item belongs to; the first value names its split.
        text: the answer itself.
    """

    label: str
    wanted: str
    correct: bool
    group: Mapping[str, str]
    text: str

    @property
    def split(self) -> str:
        """The split that the item counts in, beside `all`."""
        return next(iter(self.group.values()))


class Measured(NamedTuple):
    """One figure of one split."""

    split: str
    metric: str
    estimate: Estimate


class Suite(ABC):
    """Frozen knowledge of one kind of question. Stateless: judge first, then measure."""

    name: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]
    max_new_tokens: ClassVar[int]

    @abstractmethod
    def judge(self, row: Row, text: str, meta: Mapping[str, Any], /) -> Verdict:
        """What this answer to this row is.

        Raises:
            DataError: the row or the meta lacks something that judging needs.
        """

    @abstractmethod
    def figures(self, verdicts: Sequence[Verdict]) -> list[tuple[str, Estimate]]:
        """The metrics of one split, by name; those that nothing was measured for are left out."""

    def metrics(self, verdicts: Sequence[Verdict]) -> list[Measured]:
        """Every metric of every split that has rows, then fluency over all."""
        found = []
        for split in (*self.splits, "all"):
            inside = [v for v in verdicts if split in ("all", v.split)]
            if inside:
                found += [Measured(split, name, e) for name, e in self.figures(inside)]
        texts = [v.text for v in verdicts]
        return [
            *found,
            Measured("all", "repetition", intervals.mean([repetition(t) for t in texts])),
            Measured("all", "length", intervals.mean([float(len(words(t))) for t in texts])),
        ]


def share(verdicts: Sequence[Verdict], hit: Callable[[Verdict], bool]) -> Estimate:
    """The rate of verdicts for which `hit` is true."""
    return intervals.rate(sum(map(hit, verdicts)), len(verdicts))


def label(row: Row, name: str, known: Sequence[str] = ()) -> str:
    """One of a row's labels, as text.

    Raises:
        DataError: it is missing, or not among `known`.
    """
    if name not in row.labels:
        raise DataError(f"Row {row.id!r} has no label {name!r}, which its suite needs.")
    value = str(row.labels[name])
    if known and value not in known:
        raise DataError(f"Row {row.id!r} has {name} {value!r}.{nearest(value, known)}")
    return value
