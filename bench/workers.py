"""What reading on a Ray cluster costs, on this machine: bytes per row, and rows per second.

    python bench/workers.py --json runs/bench/workers.json [--pairs N] [--rounds N] [--quick]

Rows: suite `ray`; metrics:

    bytes_per_row     of a worker's answer of 256 rows of width 4096, as Ray ships it; splits
                      SITES_TYPE, such as `32_bfloat16`
    bytes_per_prompt  of what a worker is asked: split `text` (24 words and 4), and `image` (the
                      same with a picture of 336 x 336 of its own)
    rows_per_second   split `model`: contrast rows read of a random Llama (64 wide in --quick, else
                      1024, 16 blocks, behind the middle one), float32, one thread each, by
                      `one_process`, `one_worker` and `two_workers`; a single run each if --rounds 1
    rows_per_second   of `driver`, split SITES_TYPE: rows of width 4096 that one worker has ready,
                      taken in and gathered: what the driver can take from workers of its machine

Values are medians over rounds, their intervals the range. Workers are there before anything is
timed; `seconds_to_start` is what it took until the first of them had the model.
"""

import argparse
import datetime
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import ray
import torch
from peers.pairs import SHAPES, random_pairs, tokenizer
from peers.shapes import build
from PIL import Image
from ray.experimental import get_local_object_locations

from steersman import Site
from steersman.backends.engine import Piece, Reading, gathered
from steersman.backends.hf import HFModel
from steersman.backends.ray_engine import Packed, RayModel
from steersman.backends.ray_workers import Cluster, Crew
from steersman.core.types import Prompt
from steersman.evals.records import Result, Results

SUITE, WIDTH, NUM = "ray", 4096, 256
KINDS = [(n, dtype) for n in (1, 32) for dtype in (torch.float32, torch.bfloat16)]


def model(shape: str) -> HFModel:
    """What this process and every worker hold."""
    torch.set_num_threads(1)
    kind = SHAPES[shape]
    return HFModel(build(kind, "cpu", dtype=torch.float32), tokenizer(kind), id=shape)


def asked(shape: str, pairs: int) -> list[Prompt]:
    made = random_pairs(SHAPES[shape], pairs)
    return [Prompt(p.prompt, completion=said) for p in made for said in (p.positive, p.negative)]


def answer(sites: int, dtype: torch.dtype) -> Piece:
    """One window's rows, as a large model would make them."""
    states = {Site(i): torch.randn(NUM, WIDTH).to(dtype) for i in range(sites)}
    return Piece(tuple(range(NUM)), (1,) * NUM, states, None, NUM)


class Ready:
    """A worker that has its answer ready."""

    def __init__(self, sites: int, dtype: torch.dtype) -> None:
        self._answer = [Packed.of(answer(sites, dtype))]

    def about(self) -> dict[str, object]:
        return {"rows": NUM}

    def read(self) -> list[Packed]:
        return self._answer


def name(sites: int, dtype: torch.dtype) -> str:
    return f"{sites}_{str(dtype).removeprefix('torch.')}"


def row(method: str, split: str, metric: str, values: Sequence[float]) -> Result:
    middle = median(values)
    made = Result(SUITE, method, split, metric, middle, min(values), max(values), len(values))
    print(f"{split:12} {method:12} {metric:18} {middle:<12.6g}", flush=True)
    return made


def shipped(value: object) -> int:
    """Bytes of an object in Ray's store."""
    ref = ray.put(value)
    return get_local_object_locations([ref])[ref]["object_size"]


def byte_rows() -> Iterator[Result]:
    for sites, dtype in KINDS:
        size = shipped([Packed.of(answer(sites, dtype))])
        yield row("ours", name(sites, dtype), "bytes_per_row", [size / NUM])
    texts = asked("quick", NUM // 2)
    pixels = os.urandom(336 * 336 * 3)
    seen = [
        Prompt(p.text, (Image.frombytes("RGB", (336, 336), pixels),), completion=p.completion)
        for p in texts
    ]
    for split, prompts in (("text", texts), ("image", seen)):
        size = shipped((prompts, Reading((Site(0),)), []))
        yield row("ours", split, "bytes_per_prompt", [size / NUM])


def driver_rows(rounds: int) -> Iterator[Result]:
    for sites, dtype in KINDS:
        crew = Crew(Cluster(address="auto", num_workers=1), Ready, sites, dtype)
        crew.about()
        calls, chosen = max(1, 64 // sites), [Site(i) for i in range(sites)]

        def take(crew: Crew = crew, calls: int = calls, chosen: Sequence[Site] = chosen) -> None:
            windows = [range(i * NUM, (i + 1) * NUM) for i in range(calls)]
            done = crew.each("read", [()] * calls)
            pieces = (one.piece(windows[n]) for n, packed in done for one in packed)
            gathered(pieces, calls * NUM, chosen, WIDTH)

        rates = [calls * NUM / s for s in seconds(take, rounds)]
        yield row("driver", name(sites, dtype), "rows_per_second", rates)
        crew.close()


def seconds(run: Callable[[], object], rounds: int) -> list[float]:
    """The first run is thrown away."""
    run()
    spent: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        spent.append(time.perf_counter() - began)
    return spent


def model_rows(given: argparse.Namespace) -> Iterator[Result]:
    prompts, site = asked(given.shape, given.pairs), Site(SHAPES[given.shape].layers // 2)
    alone = model(given.shape)
    spent = seconds(partial(alone.capture, prompts, [site]), given.rounds)
    rates = [len(prompts) / s for s in spent]
    yield row("one_process", "model", "rows_per_second", rates)
    for num, method in ((1, "one_worker"), (2, "two_workers")):
        began = time.perf_counter()
        cluster = Cluster(address="auto", num_workers=num)
        with RayModel(partial(model, given.shape), cluster) as there:
            yield row(method, "model", "seconds_to_start", [time.perf_counter() - began])
            there.wait()
            spent = seconds(partial(there.capture, prompts, [site]), given.rounds)
            yield row(method, "model", "rows_per_second", [len(prompts) / s for s in spent])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", choices=SHAPES, default="llama-1024")
    parser.add_argument("--quick", action="store_true", help="tiny: does it run?")
    given = parser.parse_args()
    if given.quick:
        given.shape = "quick"
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # workers import this file's neighbours
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    rows = [*byte_rows(), *driver_rows(given.rounds), *model_rows(given)]
    meta = {
        "shape": given.shape,
        "pairs": given.pairs,
        "device": f"CPU ({platform.machine()}, {os.cpu_count()} cores)",
        "versions": {"ray": ray.__version__, "torch": torch.__version__},
        "date": datetime.date.today().isoformat(),
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    Results(tuple(rows), meta).save(given.json)
    ray.shutdown()


if __name__ == "__main__":
    main()
