"""Who reads in a pass: by site, steerers as policy and name."""

from collections.abc import Sequence

from steersman.core.steerer import Policy
from steersman.core.types import Site

Due = dict[Site, list[tuple[int, str]]]


def due_now(
    policies: Sequence[Policy], probed: Sequence[Sequence[str]], *, prompt: bool, begins: bool
) -> Due:
    """In a pass that writes: prompts are read once, generated tokens if a read asks for it.

    Args:
        probed: by policy, steerers that have read the prompt before.
        prompt: whether the pass may hold tokens of a prompt.
        begins: whether it begins the sequences.
    """
    found: Due = {}
    for i, policy in enumerate(policies):
        for name, steerer in policy.steerers.items():
            again = any(read.every for read in steerer.reads)
            if (prompt and name not in probed[i]) or (again and not begins):
                for site in {read.site for read in steerer.reads}:
                    found.setdefault(site, []).append((i, name))
    return found


def due_before(policies: Sequence[Policy], probed: Sequence[Sequence[str]]) -> Due:
    """In passes that only read, before anything is written."""
    found: Due = {}
    for i, names in enumerate(probed):
        for name in names:
            for site in {read.site: None for read in policies[i].steerers[name].reads}:
                found.setdefault(site, []).append((i, name))
    return found
