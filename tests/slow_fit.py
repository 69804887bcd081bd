"""A process of its own that fits slowly, to be killed: `python slow_fit.py STORE SECONDS COMPANY`.

It begins when as many as COMPANY have been started, and prints the hash of the policy; `fit` is
what it should print without any store.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import tiny
import toy
from steersman.backends.cached import CachedModel
from steersman.backends.hf import HFModel
from steersman.core.recipe import read_recipe
from steersman.data.store import RowStore
from steersman.methods.fit import fit_policy

RECIPE = """
method = "l2s"
name = "safety"
site = { layer = 1 }
context = { site = { layer = 2 } }
[net]
epochs = 2
[contrasts.behaviours.harmful]
suffix = " safe ?"
positive = "harmful"
negative = "safe"
[contrasts.behaviours.expert]
suffix = " a b ?"
positive = "yes"
negative = "no"
"""


def engine() -> HFModel:
    """The tiny model, which reads a few prompts in each pass."""
    whole = tiny.llama()
    return HFModel(whole.model, whole.chat.processor, id="tiny-llama", token_budget=60)


class Slow(HFModel):
    """Waits behind every piece."""

    seconds = 0.0

    def read(self, *given, **named):
        for piece in super().read(*given, **named):
            yield piece
            time.sleep(self.seconds)


def fit(model, folder: Path) -> str:
    """The content hash of a policy that is fitted on the toy rows."""
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE)
    return fit_policy(model, read_recipe(recipe), toy.rows(24)).content_hash()


if __name__ == "__main__":
    root = Path(sys.argv[1])
    slow = Slow(tiny.llama().model, tiny.llama().chat.processor, id="tiny-llama", token_budget=60)
    slow.seconds = float(sys.argv[2])
    (root.parent / f"ready-{os.getpid()}").touch()
    while len(list(root.parent.glob("ready-*"))) < int(sys.argv[3]):
        time.sleep(0.01)
    own = root.parent / str(os.getpid())
    own.mkdir()
    sys.stdout.write(fit(CachedModel(slow, RowStore(root, flush_seconds=0)), own))
