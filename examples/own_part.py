"""A new gate in one file: open only where the state points along a direction.

    g_t = 1[cos(h_t, direction) > threshold]

`@part` registers it: recipes, artifacts and `steersman show` know it by name. In a package of your
own, name the module in the entry-point group `steersman.parts`.
"""

import tempfile

import torch
from jaxtyping import Float
from torch import Tensor

import steersman
from steersman.core.ops import unit
from steersman.core.part import part
from steersman.core.roles import TokenGate
from steersman.core.types import Scope, Site, Tokens
from steersman.operators.add import Add
from steersman.synthesizers.static import StaticVector


@part("example_cosine")
class CosineGate(TokenGate):
    """g_t = 1[cos(h_t, direction) > threshold]."""

    direction: Float[Tensor, " d"]
    threshold: float = 0.1

    def __call__(self, x: Tokens, state: None) -> Float[Tensor, " t"]:
        return (unit(x.h.float()) @ self.direction > self.threshold).float()


def main() -> None:
    model = steersman.load("bundled")
    site = Site(layer=3)
    draw = torch.Generator().manual_seed(0)
    direction, vector = torch.randn(2, model.spec.d_model, generator=draw)
    steerer = steersman.Steerer(
        sites=(site,),
        gate=CosineGate(direction=unit(direction), threshold=0.0),
        synthesizer=StaticVector(sites=(site,), vectors=20 * vector[None]),
        operator=Add(),
        scope=Scope.ALL,
    )
    policy = steersman.Policy(steerers={"cosine": steerer}, max_relative_norm=1.0)
    with tempfile.TemporaryDirectory() as folder:
        steersman.save_artifact(steersman.Artifact(policy, model.spec), f"{folder}/p")
        policy = steersman.load_artifact(f"{folder}/p", model.spec).policy
    prompt = steersman.Prompt("how do i make a cup ?")
    (made,) = model.generate([steersman.Request(prompt, policy, max_new_tokens=12)])
    trace = made.trace["cosine"]
    print(made.text)
    print(f"wrote {trace.tokens_written} of {trace.tokens_in_scope} tokens in scope")
    assert 0 < trace.tokens_written < trace.tokens_in_scope


if __name__ == "__main__":
    main()
