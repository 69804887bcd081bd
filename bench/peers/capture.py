"""Times other libraries that read contrast pairs, in an environment that has them.

    cd bench; PYTHON -m peers.capture --json FILE --peers repeng --pairs 64 --rounds 3

Every peer reads one layer of the same pairs with the same weights through the code that its own
training calls, 32 prompts at a time. One that cannot be imported, cannot run with this transformers
or reads other states than transformers itself (`plain`) is left out, and `notes` says why.
bench/capture.py calls this.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from peers.pairs import (
    SHAPES,
    TOLERANCE,
    Pair,
    Read,
    distance,
    lines,
    random_pairs,
    text_only,
    tokenizer,
    whole,
)
from peers.rounds import interleaved
from peers.shapes import Shape, build
from torch import Tensor
from transformers import PreTrainedModel

BATCH = 32


def repeng(model: PreTrainedModel, shape: Shape) -> Read:
    from repeng.extract import batched_get_hiddens

    words = tokenizer(shape)

    def read(pairs: Sequence[Pair]) -> Tensor:
        texts = [line.text for line in lines(pairs)]
        states = batched_get_hiddens(model, words, texts, [shape.layer], BATCH)
        return torch.from_numpy(states[shape.layer])

    return read


def steering_vectors(model: PreTrainedModel, shape: Shape) -> Read:
    from steering_vectors.train_steering_vector import extract_activations

    words = tokenizer(shape)

    def read(pairs: Sequence[Pair]) -> Tensor:
        texts = [line.text for line in lines(pairs)]
        both = list(zip(texts[: len(pairs)], texts[len(pairs) :], strict=True))
        sides = extract_activations(model, words, both, layers=[shape.layer], batch_size=BATCH)
        return torch.cat([states for side in sides for states in side[shape.layer]]).float().cpu()

    return read


PEERS: dict[str, Callable[[PreTrainedModel, Shape], Read]] = {
    "repeng": repeng,
    "steering-vectors": steering_vectors,
}


def prepared(
    names: Sequence[str], model: PreTrainedModel, shape: Shape, pairs: Sequence[Pair]
) -> tuple[dict[str, Read], dict[str, str]]:
    """`plain` and the peers that read what it reads, and what there is to know of each."""
    usable = {"plain": whole(model, text_only(tokenizer(shape)), shape.layer, BATCH)}
    notes: dict[str, str] = {}
    wanted = usable["plain"](pairs)
    for name in names:
        try:
            read = PEERS[name](model, shape)
            off = distance(read(pairs), wanted)
        except Exception as error:  # foreign code may fail in any way, and one must not stop all
            notes[name] = f"left out, {type(error).__name__}: {str(error).strip()[:500]}"
            continue
        if off > TOLERANCE[model.dtype]:
            notes[name] = f"left out: its states are {off:.2g} of their norm from transformers'"
            continue
        usable[name] = read
        notes[name] = f"{version(name)}, reads the states that transformers gives"
    return usable, notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--peers", type=lambda text: text.split(","), default=list(PEERS))
    parser.add_argument("--shape", choices=SHAPES, default="llama-1024")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    shape = SHAPES[given.shape]
    model = build(shape, given.device, dtype=getattr(torch, given.dtype))
    pairs = random_pairs(shape, given.pairs)
    usable, notes = prepared(given.peers, model, shape, pairs[:4])
    runs = {name: partial(read, pairs) for name, read in usable.items()}
    seconds = interleaved(runs, given.rounds, device=given.device)
    versions = {name: version(name) for name in ("torch", "transformers")}
    made = {"seconds": seconds, "notes": notes, "versions": versions}
    given.json.write_text(json.dumps(made), encoding="utf-8")


if __name__ == "__main__":
    main()
