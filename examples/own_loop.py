"""Steer your own calls: `generate`, a forward pass, a streamer. Nothing is left behind."""

import torch

import steersman
from steersman.core.types import Scope, Site
from steersman.gates.always import AlwaysOpen
from steersman.operators.add import Add
from steersman.synthesizers.static import StaticVector


def main() -> None:
    model = steersman.load("bundled")
    site = Site(layer=3)
    draw = torch.Generator().manual_seed(0)
    vector = 20 * torch.randn(1, model.spec.d_model, generator=draw)
    steerer = steersman.Steerer(
        sites=(site,),
        gate=AlwaysOpen(),
        synthesizer=StaticVector(sites=(site,), vectors=vector),
        operator=Add(),
        scope=Scope.GENERATED,
    )
    prompt = steersman.Prompt("how do i make a cup ?")
    inputs = model.chat.encode([prompt]).inputs
    plain = model.model.generate(**inputs, max_new_tokens=12)
    with model.steer(steerer) as run:
        steered = model.model.generate(**inputs, max_new_tokens=12)
        print("trace:    ", run.traces()[0]["steerer"])
    again = model.model.generate(**inputs, max_new_tokens=12)
    width = inputs["input_ids"].shape[1]
    print("unsteered:", model.chat.decode(plain[0, width:].tolist()))
    print("steered:  ", model.chat.decode(steered[0, width:].tolist()))
    assert torch.equal(plain, again), "the model is as it was"


if __name__ == "__main__":
    main()
