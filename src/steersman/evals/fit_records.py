"""What a fit recorded (`core.fitlog`), read back and put into words; docs/fit-records.md lists it.

A record of an unknown kind, or one that lacks a value, is kept as `Other` and says why: records
come from parts of anyone, and none is dropped.
"""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from steersman.core.errors import DataError
from steersman.core.tree import Decoder, Plain

Records = Sequence[Mapping[str, Plain]]
"""As a `FitLog` holds them, and a policy's provenance under "fit"."""


@dataclass(frozen=True, slots=True)
class LayerScores:
    """How well each layer tells contrast pairs apart, with 95% intervals.

    Attributes:
        distinct: the interval of the difference to the runner-up leaves out 0.
    """

    score: str
    point: str
    layers: tuple[int, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    chosen: int
    runner_up: int | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    distinct: bool = True
    num_pairs: int | None = None
    num_clusters: int | None = None

    def __post_init__(self) -> None:
        _same_length(self, "layers", "value", "low", "high")
        if self.chosen not in self.layers:
            raise DataError(f"layer {self.chosen} is chosen and has no score.")

    @property
    def title(self) -> str:
        """A heading."""
        return f"Layers by {self.score}, {self.point}"

    @property
    def lead(self) -> str:
        """What may be said of the chosen layer against the next."""
        if self.runner_up is None:
            return "the only one tried"
        gap = ""
        if self.difference is not None:
            gap = f"difference {plain(self.difference)}"
            if self.difference_low is not None and self.difference_high is not None:
                gap += f" {bracket(self.difference_low, self.difference_high)}"
            gap = f" ({gap})"
        verb = "ahead of" if self.distinct else "not distinguishable from"
        return f"{verb} layer {self.runner_up}{gap}"

    @property
    def said(self) -> str:
        """The record in a sentence."""
        i = self.layers.index(self.chosen)
        value = f"{plain(self.value[i])} {bracket(self.low[i], self.high[i])}"
        return f"layer {self.chosen} by {self.score} {value}, {self.lead}{self._counts}"

    @property
    def _counts(self) -> str:
        if self.num_pairs is None:
            return ""
        clusters = f" in {self.num_clusters} clusters" if self.num_clusters else ""
        return f"; {self.num_pairs} pairs{clusters}"


@dataclass(frozen=True, slots=True)
class GateScores:
    """What a gate's score is on rows that it was not fitted on, by group."""

    gate: str
    score: str
    threshold: float
    groups: Mapping[str, tuple[float, ...]]

    @property
    def title(self) -> str:
        """A heading."""
        return f"Gate {self.gate}: {self.score}"

    @property
    def said(self) -> str:
        """The record in a sentence."""
        above = ", ".join(
            f"{sum(v > self.threshold for v in values)} of {len(values)} {name}"
            for name, values in self.groups.items()
        )
        return f"gate {self.gate}: {self.score} above {plain(self.threshold)} for {above or 'none'}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure about a gate: `AUROC`, `recall` or `false positives` of a group of rows."""

    name: str
    group: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows of similar probability `p`: how many there are, and which share has the behaviour."""

    p: float
    rate: float
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1 or self.n < 0:
            raise DataError(f"the rate {self.rate} of {self.n} rows is no share.")


@dataclass(frozen=True, slots=True)
class GateQuality:
    """How well a gate tells requests apart, on rows that it was not fitted on.

    Attributes:
        ece: expected calibration error; None for scores that are no probability.
    """

    gate: str
    threshold: float
    rows: tuple[Figure, ...]
    ece: float | None = None
    reliability: tuple[Bin, ...] = ()

    @property
    def title(self) -> str:
        """A heading."""
        return f"Gate {self.gate}: how well it decides"

    @property
    def said(self) -> str:
        """The record in a sentence."""
        shown = [row for row in self.rows if row.group == "all"] or self.rows
        figures = [f"{r.name} {plain(r.value)} {bracket(r.low, r.high)} (n {r.n})" for r in shown]
        if self.ece is not None:
            figures.append(f"calibration error {plain(self.ece)}")
        return f"gate {self.gate} at {plain(self.threshold)}: {', '.join(figures) or 'no rows'}"


@dataclass(frozen=True, slots=True)
class ExpertUsage:
    """How the fit rows fall into clusters, and how much each behaviour uses each expert.

    Attributes:
        scores: Calinski-Harabasz index by number of clusters that was tried.
    """

    experts: int
    sizes: tuple[int, ...]
    scores: Mapping[str, float] = field(default_factory=dict)
    usage: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.experts < 1:
            raise DataError(f"{self.experts} experts are none.")
        if unknown := [k for k in self.scores if not (k.isascii() and k.isdecimal())]:
            raise DataError(f"scores are by number of clusters, not by {unknown[0]!r}.")
        for name, shares in (("sizes", self.sizes), *self.usage.items()):
            if len(shares) != self.experts:
                raise DataError(f"{name} has {len(shares)} values for {self.experts} experts.")

    @property
    def title(self) -> str:
        """A heading."""
        return f"{self.experts} experts"

    @property
    def said(self) -> str:
        """The record in a sentence."""
        sizes = f"{self.experts} experts of {', '.join(map(str, self.sizes))} rows"
        tried = ", ".join(f"K={k} {plain(score)}" for k, score in self.scores.items())
        return f"{sizes}; Calinski-Harabasz {tried}" if tried else sizes


@dataclass(frozen=True, slots=True)
class Training:
    """Loss by epoch; `kept` counts epochs from 0."""

    what: str
    train: tuple[float, ...]
    validation: tuple[float, ...] = ()
    kept: int | None = None

    @property
    def title(self) -> str:
        """A heading."""
        return f"Training of {self.what}"

    @property
    def said(self) -> str:
        """The record in a sentence."""
        said = f"{self.what}: {len(self.train)} epochs"
        if self.kept is None:
            return said
        known = [
            f"{name} {plain(loss[self.kept])}"
            for name, loss in (("train", self.train), ("validation", self.validation))
            if 0 <= self.kept < len(loss)
        ]
        return f"{said}, epoch {self.kept} kept" + (f" ({', '.join(known)})" if known else "")


@dataclass(frozen=True, slots=True)
class Other:
    """A record that this version cannot draw, with the reason."""

    kind: str
    problem: str
    values: Mapping[str, Plain]

    @property
    def title(self) -> str:
        """A heading."""
        return self.kind

    @property
    def said(self) -> str:
        """The record in a sentence."""
        values = ", ".join(f"{name} {short(value)}" for name, value in self.values.items())
        return f"{self.kind}: {values}" + (f" ({self.problem})" if self.problem else "")


Known = LayerScores | GateScores | GateQuality | ExpertUsage | Training
KINDS: dict[str, type[Known]] = {
    "layer_scores": LayerScores,
    "gate_scores": GateScores,
    "gate_quality": GateQuality,
    "expert_usage": ExpertUsage,
    "training": Training,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One record, and the values in it that its kind does not list."""

    record: Known | Other
    more: Mapping[str, Plain]

    @property
    def said(self) -> str:
        """The record in a sentence, with what else it holds."""
        more = "".join(f"; {name} {short(value)}" for name, value in self.more.items())
        return self.record.said + more


def read(records: Records) -> tuple[Entry, ...]:
    """Every record, in order."""
    return tuple(_entry(record) for record in records)


def of_provenance(provenance: Mapping[str, Plain]) -> dict[str, tuple[Entry, ...]]:
    """The records of a policy, by steerer where it has several ("" where it has not said).

    Raises:
        DataError: what stands under "fit" is neither a list of records nor lists by name.
    """
    kept = provenance.get("fit") or {}
    named = kept if isinstance(kept, Mapping) else {"": kept}
    found: dict[str, tuple[Entry, ...]] = {}
    for name, records in named.items():
        if not isinstance(records, list) or not all(isinstance(r, Mapping) for r in records):
            raise DataError('provenance "fit" must be a list of records, or such lists by steerer.')
        if records:
            found[str(name)] = read(records)
    return found


def plain(value: float) -> str:
    """A number with as many digits as a reader needs."""
    size = abs(value)
    if size >= 100:
        return f"{value:.0f}" if size < 1e6 else f"{value:.3g}"
    if 0.99 <= size < 1:
        return f"{value:.3f}"  # not "1.00": a share that is almost all
    return f"{value:.2f}" if size >= 0.1 or value == 0 else f"{value:.2g}"


def bracket(low: float, high: float) -> str:
    """An interval."""
    return f"[{plain(low)}, {plain(high)}]"


def short(value: Plain, limit: int = 160) -> str:
    """Any JSON value on one line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        text = f"[{', '.join(short(v) for v in value)}]"
    elif isinstance(value, Mapping):
        text = ", ".join(f"{k}: {short(v)}" for k, v in value.items())
    elif value is None or isinstance(value, bool):
        text = "none" if value is None else "yes" if value else "no"
    else:
        text = str(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _entry(record: Mapping[str, Plain]) -> Entry:
    values = {name: value for name, value in record.items() if name != "kind"}
    kind = str(record.get("kind", "record"))
    if kind not in KINDS:
        return Entry(Other(kind, "", values), {})
    cls = KINDS[kind]
    names = {f.name for f in fields(cls)}
    table = {name: value for name, value in values.items() if name in names}
    more = {name: value for name, value in values.items() if name not in names}
    try:
        made = Decoder(kind, error=DataError).build(cls, table)
    except DataError as error:
        return Entry(Other(kind, f"not drawn: {error}", values), {})
    return Entry(typing.cast(Known, made), more)


def _same_length(record: object, *names: str) -> None:
    sizes = {name: len(getattr(record, name)) for name in names}
    if len(set(sizes.values())) > 1:
        given = ", ".join(f"{size} {name}" for name, size in sizes.items())
        raise DataError(f"as many of each are needed, not {given}.")
