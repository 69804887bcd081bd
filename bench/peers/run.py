"""Times other libraries that add a constant vector, in an environment that has them.

    cd bench; PYTHON -m peers.run --json FILE --peers repeng,pyvene,nnsight --batches 1,8

Every peer adds the same vector to all tokens behind the same block, through its own public API, to
a model of its own with the same weights. One that cannot be imported, cannot run with this
transformers or does not steer is left out, and `notes` says why. bench/generate.py calls this.
"""

import argparse
import copy
import json
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from peers.rounds import interleaved, peaks
from peers.shapes import SHAPES, Shape, build, prompts, sampling, tokenizer, vector
from torch import Tensor
from transformers import PreTrainedModel

Inputs = dict[str, Tensor]
Generate = Callable[[Inputs], Tensor]


def plain(model: PreTrainedModel, shape: Shape) -> Generate:
    return lambda inputs: model.generate(**inputs, **sampling(shape.new))


def repeng(model: PreTrainedModel, shape: Shape) -> Generate:
    from repeng import ControlModel, ControlVector

    added = vector(shape, "cpu").float().numpy()
    wrapped = ControlModel(model, [shape.layer])
    wrapped.set_control(ControlVector(model.config.model_type, {shape.layer: added}))
    return lambda inputs: wrapped.generate(**inputs, **sampling(shape.new))


def steering_vectors(model: PreTrainedModel, shape: Shape) -> Generate:
    from steering_vectors import SteeringVector

    added = SteeringVector({shape.layer: vector(shape, str(model.device))}, "decoder_block")

    def run(inputs: Inputs) -> Tensor:
        with added.apply(model):
            return model.generate(**inputs, **sampling(shape.new))

    return run


def pyvene(model: PreTrainedModel, shape: Shape) -> Generate:
    import pyvene as pv

    where = {
        "layer": shape.layer,
        "component": "block_output",
        "intervention": pv.AdditionIntervention(
            source_representation=vector(shape, str(model.device)), embed_dim=shape.width
        ),
    }
    wrapped = pv.IntervenableModel([where], model)
    return lambda inputs: wrapped.generate(
        inputs,
        intervene_on_prompt=True,  # with no locations: all tokens, the generated ones too
        **sampling(shape.new),
    )[1]


def nnsight(model: PreTrainedModel, shape: Shape) -> Generate:
    from nnsight import TransformersModel

    added = vector(shape, str(model.device))
    wrapped = TransformersModel(model, tokenizer=tokenizer(), task="text-generation")

    def run(inputs: Inputs) -> Tensor:
        with wrapped.generate(inputs, **sampling(shape.new)) as tracer:
            block = wrapped.model.layers[shape.layer]
            for _ in tracer.iter[: shape.new]:
                block.output = block.output + added
            ids = tracer.result.save()
        return ids  # noqa: RET504  # nnsight takes the block's source away: no return in there

    return run


PEERS = {
    "repeng": repeng,
    "steering-vectors": steering_vectors,
    "pyvene": pyvene,
    "nnsight": nnsight,
}


def hooked(model: PreTrainedModel, shape: Shape, inputs: Inputs) -> Tensor:
    """What a bare hook that adds the vector makes the model say."""
    added = vector(shape, str(model.device))

    def add(_module: object, _args: object, out: Tensor | tuple[Tensor, ...]) -> object:
        return (out[0] + added, *out[1:]) if isinstance(out, tuple) else out + added

    handle = model.model.layers[shape.layer].register_forward_hook(add)
    try:
        return model.generate(**inputs, **sampling(shape.new))
    finally:
        handle.remove()


def prepared(
    names: list[str], model: PreTrainedModel, shape: Shape
) -> tuple[dict[str, Generate], dict[str, str]]:
    """The peers that steer, and what there is to know of each."""
    inputs = prompts(shape, 2, str(model.device))
    unsteered = model.generate(**inputs, **sampling(shape.new))
    wanted = hooked(model, shape, inputs)
    usable: dict[str, Generate] = {}
    notes: dict[str, str] = {}
    for name in names:
        try:
            run = PEERS[name](copy.deepcopy(model), shape)
            said = run(inputs)
        except Exception as error:  # foreign code may fail in any way, and one must not stop all
            notes[name] = f"left out, {type(error).__name__}: {str(error).strip()[:500]}"
            continue
        if torch.equal(said, unsteered):
            notes[name] = "left out: it ran, and the answers are the unsteered ones"
            continue
        usable[name] = run
        same = "the same tokens as" if torch.equal(said, wanted) else "other tokens than"
        notes[name] = f"{version(name)}, writes {same} a bare hook with this vector"
    return usable, notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--peers", type=lambda text: text.split(","), default=list(PEERS))
    parser.add_argument("--shape", choices=SHAPES, default="llama-1024")
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    shape = SHAPES[given.shape]
    model = build(shape, given.device)
    usable, notes = prepared(given.peers, model, shape)
    methods = {"none": plain(model, shape), "none_again": plain(model, shape), **usable}
    seconds, used = {}, {}
    for batch in given.batches or [1]:
        inputs = prompts(shape, batch, given.device)
        runs = {name: partial(run, inputs) for name, run in methods.items()}
        seconds[f"batch{batch}"] = interleaved(runs, given.rounds, device=given.device)
        used[f"batch{batch}"] = peaks(runs, device=given.device)
    versions = {name: version(name) for name in ("torch", "transformers")}
    made = {"seconds": seconds, "peaks": used, "notes": notes, "versions": versions}
    given.json.write_text(json.dumps(made), encoding="utf-8")


if __name__ == "__main__":
    main()
