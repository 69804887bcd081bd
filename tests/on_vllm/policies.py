"""The policies that are served: one of every kind of part, fitted on a few rows or made by hand."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

import steersman
from steersman import Artifact, CachedModel, Policy, RowStore, Scope, Site, Steerer
from steersman.backends.hf import HFModel
from steersman.gates.always import AlwaysOpen
from steersman.operators.add import Add
from steersman.synthesizers.static import StaticVector
from steersman.world.rows import Sizes, SplitSizes
from steersman.world.write import write_world

RECIPES = Path(steersman.__file__).parent / "world/recipes"
SMALL = SplitSizes(fit=180, calibration=9, test=9)

FITTED: dict[str, tuple[str, tuple[str, ...]]] = {
    "l2s": ("safety", ("context.site.layer=5", "strength=2.0")),  # reads above what it writes
    "autosteer": ("autosteer", ("strength=0.15",)),
    "finesteer": ("finesteer", ("method.strength=1.5",)),
    "mean": ("mean", ()),
    "ablation": ("ablation", ()),
    "iti": ("iti", ()),
    "alphasteer": ("alphasteer", ()),
    "angular": ("angular", ()),
    "clamp": ("clamp", ()),
    "scans": ("scans", ()),
    "adasteer": ("adasteer", ()),
    "act_add": ("act_add", ()),
    "cast": ("cast", ()),
    "k_steering": ("k_steering", ()),
    "sadi": ("sadi", ()),
    "composed": ("composed", ()),  # two steerers at one site, and a cap
    "prober+head+l2s": ("prober_head_l2s", ()),
}
"""By id, the recipe and what is set in it."""

MADE = ("everywhere", "pictures", "later", "closed", "capped")
"""Those made by hand of the fitted ones, by `Policies`."""


class Policies:
    """A folder of artifacts, and what is in it.

    Args:
        only: ids of those that are wanted; all of them if none is named.
    """

    def __init__(self, model: HFModel, folder: Path, only: Iterable[str] = ()) -> None:
        self.folder = folder / "shelf"
        self._model = model
        wanted = tuple(only) or (*FITTED, *MADE)
        write_world(folder / "world", sizes=Sizes(safety=SMALL, pope=SMALL, utility=SMALL))
        suites = ("safety", "pope", "utility")
        data = {s: steersman.load_data(folder / "world" / s / "fit") for s in suites}
        fitting = CachedModel(model, RowStore(folder / "rows"))
        for name in wanted:
            if name in FITTED:
                recipe, settings = FITTED[name]
                read = steersman.read_recipe(RECIPES / f"{recipe}.toml", settings)
                self._save(name, steersman.fit_policy(fitting, read, data).policy)
        for name in wanted:
            if name in MADE:
                made = Policy(steerers={"s": self._made(name)}, max_relative_norm=CAP.get(name))
                self._save(name, made)

    def __getitem__(self, name: str) -> Policy:
        return steersman.load_artifact(self.folder / name, self._model.spec).policy

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(sorted(path.name for path in self.folder.iterdir()))

    def _save(self, name: str, policy: Policy) -> None:
        steersman.save_artifact(Artifact(policy, self._model.spec), self.folder / name)

    def _made(self, name: str) -> Steerer:
        mean = self["mean"].steerers["mean"]
        if name == "closed":
            prober = self["autosteer"].steerers["autosteer"].gate
            return replace(mean, gate=replace(prober, threshold=0.999999))
        scope = {"everywhere": Scope.ALL, "pictures": Scope.IMAGE, "later": Scope.GENERATED}
        return static(scope.get(name, Scope.LAST_AND_GENERATED))


CAP = {"capped": 0.2}


def static(scope: Scope, *, length: float = 6.0, layer: int = 2) -> Steerer:
    """A vector of its own at the tokens of a scope, long enough to be seen in the answers."""
    drawn = torch.randn(1, 192, generator=torch.Generator().manual_seed(3))
    site = Site(layer)
    vector = StaticVector(sites=(site,), vectors=drawn / drawn.norm() * length)
    return Steerer(
        sites=(site,), gate=AlwaysOpen(), synthesizer=vector, operator=Add(), scope=scope
    )
