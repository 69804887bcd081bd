"""What reading contrast pairs costs: time relative to the floor and to others, and memory.

    python bench/capture.py --json runs/bench/capture.json [--pairs N] [--splits text,image]
    python bench/capture.py --json FILE --peers            other libraries too
    python bench/capture.py --json FILE --device cuda --dtype bfloat16

Rows: suite `capture`; splits `text` (512 pairs: a prompt of 24 tokens and two completions of 4),
`text_varied` (256 pairs, prompts of 16 to 32 tokens), `image` (256 pairs, each with an image of its
own, 576 tokens of it, and 32 more); metrics:

    rows_per_second       contrast pairs per second, tokenising and image processing included
    ratio_to_floor        time per pair / that of `floor` in the same round
    speedup_over_best_peer  of `ours`: time per pair of the fastest other way / ours
    ratio_to_first        of `ours_cached`: reading the same pairs again / the first time
    peak_memory           MiB: the most tensors alive at once in a streamed mean over 4096 pairs
    peak_memory_4n        the same over four times the pairs
    memory_growth         what the peak grew by / the rows that came in addition: 0 is flat in N

Every way returns the last completion token's state behind the middle block of all lines, of a
random Llama (width 1024, 16 blocks; in a LLaVA for `image`, whose tower is made here: CLIP, 6
layers of width 512, about a sixth of the work). Before anything is timed, all must agree.

`ours` is `HFModel.capture`; `ours_cached` the same through a `CachedModel`, opened anew on a full
store. `plain` is transformers over padded batches of lines of similar length (32; 8 with images),
the whole model with its head, `output_hidden_states`; `one_by_one` the same a line at a time, as
the released scripts of the papers do. With `--peers`, repeng and steering-vectors run in
environments of their own, 32 lines at a time, where `plain` runs beside them: their time is what
they take relative to that `plain`, times the `plain` of this process.

`floor` is what must run. It runs the distinct tokens (a prompt once, each completion once, an
image's once) through the embeddings and the blocks up to the read one, and each image once through
the tower: a bare loop over the blocks, in rows of equal length without padding, hooks or cache, on
tokens and pixels that are ready. Its batches have 512, 1024, 2048 or 4096 tokens, whichever a trial
found fastest.

A round runs every way once, in an order of its own. What is slow reads fewer pairs in a round, the
next ones in the next, and counts per pair; `n` is how many different pairs are behind a value.
A value is the median over rounds, its interval their range. Memory is read from a Llama of two
blocks of width 256, behind the first, so that rows weigh more than activations.
"""

import argparse
import datetime
import gc
import platform
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from peers.environments import timed
from peers.floor import Floor
from peers.llava import TOWERS, build_llava, picture, with_images
from peers.pairs import (
    SHAPES,
    TOLERANCE,
    Pair,
    Read,
    distance,
    random_pairs,
    text_only,
    tokenizer,
    whole,
)
from peers.rounds import peaks, settled, synchronise
from peers.shapes import Shape, build

from steersman.backends.cached import CachedModel
from steersman.backends.hf import HFModel
from steersman.core.roles import Model
from steersman.core.types import Position, Prompt, Site
from steersman.data.contrast import Contrast
from steersman.data.rows import Row
from steersman.data.store import RowStore
from steersman.evals.records import Result, Results
from steersman.methods.contrast import ContrastRule, mean_contrast

SUITE = "capture"
PEERS = {"transformers-5": ("repeng",), "transformers-4": ("steering-vectors",)}
OTHERS = ("plain", "one_by_one", "repeng", "steering-vectors")
FLOOR_BATCHES = (512, 1024, 2048, 4096)
SMALL = Shape(256, 2, 4, 4, 512, 1024)
MIB = 2**20


@dataclass(frozen=True)
class Split:
    """How many pairs there are, and how many of them each way reads in a round."""

    pairs: int
    rounds: int
    counts: Mapping[str, int]
    lengths: tuple[int, int] = (24, 24)

    def limited(self, pairs: int) -> "Split":
        """The same with no more pairs than this; who reads fewer of them reads fewer still."""
        pairs = min(pairs, self.pairs)
        counts = {n: max(1, count * pairs // self.pairs) for n, count in self.counts.items()}
        return replace(self, pairs=pairs, counts=counts)

    def num_read(self, method: str) -> int:
        """Different pairs that a method reads in all rounds."""
        return min(self.pairs, self.rounds * self.counts[method])


SPLITS = {
    "text": Split(512, 3, {"ours": 512, "floor": 512, "plain": 64, "one_by_one": 32}),
    "text_varied": Split(256, 2, {"ours": 128, "floor": 128, "plain": 128}, (16, 32)),
    "image": Split(256, 4, {"ours": 64, "floor": 32, "plain": 4, "one_by_one": 1}),
}
CACHED = {"text": 512, "image": 16}
"""By split: pairs that are read again."""


def fastest(floor: Floor, pairs: Sequence[Pair], device: str) -> Floor:
    """The floor with the batches that took the least time over the first few blocks."""
    most = max(FLOOR_BATCHES)
    length = pairs[0].num_words + floor.image
    some = pairs[: max(1, most // length)]
    tried = {
        str(batch): replace(floor, layer=min(2, floor.layer), batch=batch)
        for batch in FLOOR_BATCHES
        if batch == most or batch >= length
    }
    seconds = per_pair(tried, some, Split(len(some), 3, dict.fromkeys(tried, len(some))), device)
    return replace(floor, batch=int(min(tried, key=lambda name: min(seconds[name]))))


def per_pair(
    runs: Mapping[str, Any], pairs: Sequence[Pair], split: Split, device: str
) -> dict[str, list[float]]:
    """Seconds per pair of every way in every round; each round has an order of its own."""
    draw = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with settled():
        for number in range(split.rounds):
            for name in draw.sample(list(runs), len(runs)):
                count = split.counts[name]
                mine = [pairs[(number * count + i) % len(pairs)] for i in range(count)]
                gc.collect()
                synchronise(device)
                began = time.perf_counter()
                runs[name](mine)
                synchronise(device)
                seconds[name].append((time.perf_counter() - began) / count)
    return seconds


def prompts(pairs: Sequence[Pair]) -> list[Prompt]:
    """Every positive prompt, then every negative one."""
    sides = [[(p, p.positive) for p in pairs], [(p, p.negative) for p in pairs]]
    return [
        Prompt(p.prompt, (p.image,) if p.image else (), completion=said)
        for side in sides
        for p, said in side
    ]


def ours(model: Model, layer: int) -> Read:
    site = Site(layer)
    return lambda pairs: model.capture(prompts(pairs), [site], Position("completion"))[site]


def check_agree(ways: Mapping[str, Read], pairs: Sequence[Pair], dtype: torch.dtype) -> None:
    """Refuses to time ways that read different states; this also warms them up."""
    wanted = ways["plain"](pairs)
    for name, read in ways.items():
        off = distance(read(pairs), wanted)
        if not off <= TOLERANCE[dtype]:
            raise SystemExit(
                f"{name} reads states that are {off:.2g} of their norm away from those of plain "
                f"transformers; {TOLERANCE[dtype]:.2g} is allowed. Its time would say nothing: "
                "correct the way it reads in bench/capture.py."
            )


def row(method: str, split: str, metric: str, values: Sequence[float], n: int) -> Result:
    return Result(SUITE, method, split, metric, median(values), min(values), max(values), n)


def time_rows(
    name: str, seconds: Mapping[str, Sequence[float]], n: Mapping[str, int]
) -> Iterator[Result]:
    """Rates and ratios of one split, from the seconds per pair in every round."""
    for method, values in seconds.items():
        yield row(method, name, "rows_per_second", [1 / s for s in values], n[method])
        if method != "floor":
            ratios = [a / b for a, b in zip(values, seconds["floor"], strict=True)]
            yield row(method, name, "ratio_to_floor", ratios, n[method])
    others = [seconds[method] for method in OTHERS if method in seconds]
    best = [min(times) for times in zip(*others, strict=True)]
    gained = [other / mine for other, mine in zip(best, seconds["ours"], strict=True)]
    yield row("ours", name, "speedup_over_best_peer", gained, n["ours"])


def chained(here: Sequence[float], there: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Seconds per pair of peers in this process, had they run: relative to `plain` in theirs."""
    return {
        name: [s * median(a / b for a, b in zip(values, there["plain"], strict=True)) for s in here]
        for name, values in there.items()
        if name != "plain"
    }


def cached_rows(name: str, model: HFModel, layer: int, pairs: Sequence[Pair]) -> Iterator[Result]:
    """Reading pairs through a cache, once and then again from what is on disk."""
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(4):
            gc.collect()
            began = time.perf_counter()
            with RowStore(folder) as store:
                ours(CachedModel(model, store), layer)(pairs)
            seconds.append(time.perf_counter() - began)
    first, *again = seconds
    rates = [len(pairs) / s for s in again]
    yield row("ours_cached", name, "rows_per_second", rates, len(pairs))
    yield row("ours_cached", name, "ratio_to_first", [s / first for s in again], len(pairs))


def memory_rows(given: argparse.Namespace) -> Iterator[Result]:
    """The peak of a mean over N and over 4 N pairs, of a model whose rows weigh."""
    model = HFModel(build(SMALL, given.device, dtype=torch.float32), tokenizer(SMALL), id="small")
    rule = ContrastRule({"wanted": Contrast(positive="yes", negative="no")})
    num = 64 if given.quick else 4096  # rows enough that a model reads in many parts
    data = [
        Row(str(i), p.prompt, behaviour="wanted", positive=p.positive, negative=p.negative)
        for i, p in enumerate(random_pairs(SMALL, 4 * num))
    ]
    runs = {
        str(n): lambda n=n: mean_contrast(model, rule, data[:n], [Site(0)]) for n in (num, 4 * num)
    }
    runs[str(num)]()  # warms up
    used = peaks(runs, device=given.device)
    once, fourfold = used[str(num)], used[str(4 * num)]
    added = (fourfold - once) / (2 * 3 * num * SMALL.width * torch.float32.itemsize)
    yield row("ours", "text", "peak_memory", [once / MIB], num)
    yield row("ours", "text", "peak_memory_4n", [fourfold / MIB], 4 * num)
    yield row("ours", "text", "memory_growth", [added], 4 * num)


@dataclass(frozen=True)
class Bench:
    """One split, ready to be timed."""

    model: HFModel
    pairs: list[Pair]
    ways: dict[str, Read]
    floor: Floor


def prepared(name: str, split: Split, given: argparse.Namespace) -> Bench:
    """The model, the pairs and the ways to read them, which agree."""
    shape, dtype = SHAPES[given.shape], getattr(torch, given.dtype)
    shortest, longest = split.lengths
    pairs = random_pairs(shape, split.pairs, shortest=shortest, longest=longest)
    if name == "image":
        vision, batch = TOWERS[given.shape], 8
        raw, processor = build_llava(shape, vision, given.device, dtype=dtype)
        pairs = [replace(pair, image=picture(vision, i)) for i, pair in enumerate(pairs)]
        encode = with_images(processor)
        floor = Floor(raw, shape.layer, 0, vision.tokens, vision.edge)
    else:
        batch, processor = 32, tokenizer(shape)
        raw, encode = build(shape, given.device, dtype=dtype), text_only(processor)
        floor = Floor(raw, shape.layer, 0)
    model = HFModel(raw, processor, id=given.shape)
    ways = {
        "ours": ours(model, shape.layer),
        "plain": whole(raw, encode, shape.layer, batch),
        "one_by_one": whole(raw, encode, shape.layer, 1),
    }
    ways = {method: ways[method] for method in ways if method in split.counts}
    check_agree(ways, pairs[:2] if name == "image" else pairs[:8], dtype)
    return Bench(model, pairs, ways, fastest(floor, pairs, given.device))


def split_rows(
    name: str, given: argparse.Namespace, there: Mapping[str, Any], meta: dict[str, Any]
) -> Iterator[Result]:
    """All rows of one split; what was found out on the way goes to `meta`."""
    split = SPLITS[name].limited(given.pairs or SPLITS[name].pairs)
    split = replace(split, rounds=given.rounds or split.rounds)
    bench = prepared(name, split, given)
    meta["floor_batch"][name] = bench.floor.batch
    runs = {**bench.ways, "floor": bench.floor}
    seconds = per_pair(runs, bench.pairs, split, given.device)
    n = {method: split.num_read(method) for method in seconds}
    if name == "text":
        for found in there.values():
            seconds |= chained(seconds["plain"], found["seconds"])
            n |= {peer: split.counts["plain"] for peer in found["seconds"] if peer != "plain"}
    yield from time_rows(name, seconds, n)
    if name in CACHED:
        some = bench.pairs[: CACHED[name]]
        yield from cached_rows(name, bench.model, SHAPES[given.shape].layer, some)
    if name == "text":
        yield from memory_rows(given)


def peers_found(given: argparse.Namespace) -> dict[str, Any]:
    """By environment, what its peers took; nothing without --peers."""
    if not given.peers or "text" not in given.splits:
        return {}
    split = SPLITS["text"].limited(given.pairs or SPLITS["text"].pairs)
    options = {name: getattr(given, name) for name in ("shape", "dtype", "device")}
    options |= {"pairs": split.counts["plain"], "rounds": given.rounds or split.rounds}
    passed = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return dict(timed(given.peers_venv, passed, module="peers.capture", peers=PEERS))


def show(made: Result) -> Result:
    print(
        f"{made.split:12} {made.method:16} {made.metric:22} {made.value:<10.4g} "
        f"[{made.low:.4g}, {made.high:.4g}]  n {made.n}",
        flush=True,
    )
    return made


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--pairs", type=int, help="at most so many pairs in each split")
    parser.add_argument("--rounds", type=int, help="of every split")
    parser.add_argument("--splits", type=lambda text: text.split(","), default=list(SPLITS))
    parser.add_argument("--shape", choices=SHAPES, default="llama-1024")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument(
        "--peers-venv", type=Path, default=Path("runs/bench/peers"), help="where theirs are made"
    )
    parser.add_argument("--quick", action="store_true", help="tiny, two rounds: does it run?")
    given = parser.parse_args()
    if unknown := sorted(set(given.splits) - set(SPLITS)):
        parser.error(f"There is no split {', '.join(unknown)}. Known: {', '.join(SPLITS)}.")
    if given.quick:
        given.shape, given.pairs, given.rounds = "quick", 8, 2
    return given


def main() -> None:
    given = arguments()
    there = peers_found(given)
    cuda = given.device.startswith("cuda")
    vision = TOWERS[given.shape]
    meta: dict[str, Any] = {
        "shape": given.shape,
        "dtype": given.dtype,
        "vision": f"CLIP, {vision.layers} layers of width {vision.width}, {vision.tokens} tokens",
        "floor_batch": {},
        "device": torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "date": datetime.date.today().isoformat(),
        "peers": {k: {n: v[n] for n in ("versions", "notes")} for k, v in there.items()},
    }
    for note in (f"{n}: {text}" for found in there.values() for n, text in found["notes"].items()):
        print(note)
    rows = [show(r) for name in given.splits for r in split_rows(name, given, there, meta)]
    given.json.parent.mkdir(parents=True, exist_ok=True)
    Results(tuple(rows), meta).save(given.json)


if __name__ == "__main__":
    main()
