"""FitLog: what a fit has to tell beside the steerer that it returns."""

from dataclasses import dataclass, field
from typing import Any

Json = Any  # what `json.dumps` takes


@dataclass
class FitLog:
    """Records of one fit, in the order they were made: plain JSON, kept with the artifact.

    Each has a `kind`, which decides how it is drawn (docs/fit-records.md lists them).
    """

    keep: bool = True
    records: list[dict[str, Json]] = field(default_factory=list)

    def add(self, kind: str, **values: Json) -> None:
        """Makes one record."""
        if self.keep:
            self.records.append({"kind": kind, **values})


NO_LOG = FitLog(keep=False)
"""For callers who do not ask."""
