"""What steering costs while a model writes: time and memory relative to the unsteered model.

    python bench/generate.py --json runs/bench/generate.json [--rounds N] [--batches 1,8,32]
    python bench/generate.py --json FILE --peers               other libraries too
    python bench/generate.py --json FILE --device cuda --shape qwen2-vl-7b [--compile]

Rows: suite `generate`; splits `batch1`, `batch8`, `batch32`; metrics:

    ratio              time / time of `none` in the same round
    ratio_to_one       of `mixed32`: time / time of `one32` in the same round
    share              time inside steering's own code / all the rest of the same run; CPU only
    tokens_per_second  of `none`
    added_memory       bytes: the peak of tensors alive at once, less that of `none`

Methods: `none`; `none_again`, a second unsteered run, so that its ratio is the noise; `hook`, a
bare hook that adds a constant; steering through `with model.steer(...)`, set up inside the timed
call: `static`, `l2s`, `autosteer`, `finesteer`; at batch 32 `mixed32` (every row has an L2S policy
of its own) and `one32` (the same call, one policy for all rows); with `--peers` other libraries,
relative to the unsteered model of their own process, whose noise is `none_again@ENVIRONMENT`.
Before anything is timed, every steered run must have steered every row.

A value is the median over rounds; its interval is made of order statistics and has at least 95%
coverage (below 6 rounds there is none, and it is the range). Rounds shuffle the order of methods,
and the first is thrown away. Memory counts tensors made during the call, so neither the model nor
the artifact; on a CPU without what an operation takes and gives back inside itself. It is measured
apart from the time, and not for compiled models on a CPU, whose tensors cannot be seen.
"""

import argparse
import datetime
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial, wraps
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from peers.environments import timed
from peers.rounds import interleaved, peaks
from peers.shapes import SHAPES, Shape, build, prompts, sampling, tokenizer, vector
from scipy.stats import binom
from torch import Tensor

from steersman import Policy, Scope, Site, Steerer
from steersman.backends.hf import HFModel
from steersman.backends.hf_runtime import Run
from steersman.core.requests import SteererTrace
from steersman.core.types import Read
from steersman.evals.records import Result, Results
from steersman.gates.always import AlwaysOpen
from steersman.gates.prober import ProberGate
from steersman.gates.subspace import Logistic, SubspaceGate
from steersman.operators.add import Add
from steersman.synthesizers.linear_field import LinearField
from steersman.synthesizers.mose import SteeringMixture
from steersman.synthesizers.net import SteeringNet
from steersman.synthesizers.static import StaticVector

SUITE, MIXED = "generate", 32
Contexts = Mapping[str, Callable[[], AbstractContextManager[Any]]]


def l2s(shape: Shape, seed: int = 0) -> Steerer:
    site, draw = Site(shape.layer), torch.Generator().manual_seed(seed)
    d = shape.width
    net = SteeringNet(
        read=Read(site),
        mean=torch.zeros(d),
        spread=torch.ones(d),
        encoder=torch.randn(100, d, generator=draw) / d**0.5,
        bias=torch.zeros(100),
        decoder=torch.randn(d, 100, generator=draw) / 10,
    )
    return Steerer(sites=(site,), gate=AlwaysOpen(), synthesizer=net, operator=Add())


def autosteer(shape: Shape) -> Steerer:
    draw, d = torch.Generator().manual_seed(0), shape.width
    gate = ProberGate(
        read=Read(Site(shape.layer)),
        mean=torch.zeros(d),
        scale=torch.ones(d),
        weight1=torch.randn(64, d, generator=draw) / d**0.5,
        bias1=torch.zeros(64),
        weight2=torch.zeros(64),
        bias2=torch.ones(1),  # open for everyone
    )
    return Steerer(
        sites=(Site(shape.layers - 1, "head_in"),),
        gate=gate,
        synthesizer=LinearField(matrix=torch.randn(d, d, generator=draw) / d**0.5),
        operator=Add(),
        strength=0.1,
    )


def finesteer(shape: Shape) -> Steerer:
    draw, d = torch.Generator().manual_seed(0), shape.width
    read, k = Read(Site(shape.layer, "resid_pre")), min(128, d // 2)
    gate = SubspaceGate(
        read=read,
        basis=torch.linalg.qr(torch.randn(d, k, generator=draw)).Q.T.contiguous(),
        mean=torch.zeros(d),
        curve=Logistic(weight=1.0, bias=1.0),  # open for everyone
    )
    mixture = SteeringMixture(
        read=read,
        prototypes=torch.randn(8, d, generator=draw) / 10,
        keys=torch.randn(8, 64, generator=draw),
        query=torch.randn(64, d, generator=draw) / d**0.5,
        query_bias=torch.zeros(64),
        residual=torch.randn(k, d, generator=draw) / 10,
        weight1=torch.randn(256, d, generator=draw) / d**0.5,
        bias1=torch.zeros(256),
        weight2=torch.randn(k, 256, generator=draw) / 16,
        bias2=torch.zeros(k),
    )
    return Steerer(
        sites=(Site(shape.layer),),
        gate=gate,
        synthesizer=mixture,
        operator=Add(),
        scope=Scope.ALL,
    )


def static(shape: Shape) -> Steerer:
    sites = (Site(shape.layer),)
    made = StaticVector(sites=sites, vectors=vector(shape, "cpu").float()[None])
    return Steerer(sites=sites, gate=AlwaysOpen(), synthesizer=made, operator=Add())


@contextmanager
def bare_hook(model: HFModel, layer: int, added: Tensor) -> Iterator[None]:
    block = model.blocks.layers[layer]
    handle = block.register_forward_hook(lambda _module, _args, out: out + added)
    try:
        yield
    finally:
        handle.remove()


def contexts(model: HFModel, shape: Shape, batch: int) -> Contexts:
    """What each method enters around the call."""
    device = model.model.device
    steerers = {
        "static": static(shape),
        "l2s": l2s(shape),
        "autosteer": autosteer(shape),
        "finesteer": finesteer(shape),
    }
    made: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "none": nullcontext,
        "none_again": nullcontext,
        "hook": partial(bare_hook, model, shape.layer, vector(shape, str(device))),
    }
    made |= {name: partial(model.steer, steerer.to(device)) for name, steerer in steerers.items()}
    if batch == MIXED:
        policies = [Policy(steerers={"l2s": l2s(shape, seed).to(device)}) for seed in range(MIXED)]
        made["mixed32"] = partial(model.steer, policies, [1.0] * MIXED)
        made["one32"] = partial(model.steer, policies[:1] * MIXED, [1.0] * MIXED)
    return made


def check_steers(model: HFModel, made: Contexts, inputs: Mapping[str, Tensor]) -> None:
    """Refuses to time a steered run that does not steer every row."""
    rows = len(inputs["input_ids"])
    with torch.no_grad():
        unsteered = model.model(**inputs).logits[:, -1]
        for name, enter in made.items():
            with enter() as run:
                changed = (model.model(**inputs).logits[:, -1] != unsteered).any(-1)
            traces: list[dict[str, SteererTrace]] = run.traces() if run is not None else []
            idle = [t for trace in traces for t in trace.values() if t.tokens_written == 0]
            wanted = 0 if name.startswith("none") else rows
            if int(changed.sum()) != wanted or idle:
                raise SystemExit(
                    f"{name} changed {int(changed.sum())} of {rows} rows and should change "
                    f"{wanted}; steerers that wrote nothing: {idle or 'none'}. Its cost would be "
                    "that of nothing: correct its set-up in bench/generate.py."
                )


def compile_blocks(model: HFModel) -> None:
    """Compiles each decoder block; hooks and the rest of the model stay as they are."""
    torch._dynamo.config.recompile_limit = 8 * len(model.blocks.layers)  # a block is one variant
    for block in model.blocks.layers:
        block.forward = torch.compile(block.forward)


def median_row(method: str, split: str, metric: str, values: Sequence[float]) -> Result:
    """The median, and order statistics around it that hold it with at least 95% probability."""
    ordered, n = sorted(values), len(values)
    outside = int(binom.ppf(0.025, n, 0.5))  # P(fewer than this many below the median) < 0.025
    low = max(outside - 1, 0)
    return Result(SUITE, method, split, metric, median(values), ordered[low], ordered[-1 - low], n)


def ratios(seconds: Mapping[str, Sequence[float]], method: str, to: str = "none") -> list[float]:
    return [a / b for a, b in zip(seconds[method], seconds[to], strict=True)]


def time_rows(split: str, seconds: Mapping[str, Sequence[float]], tokens: int) -> Iterator[Result]:
    rates = [tokens / s for s in seconds["none"]]
    yield median_row("none", split, "tokens_per_second", rates)
    for method in seconds:
        if method != "none":
            yield median_row(method, split, "ratio", ratios(seconds, method))
    if "mixed32" in seconds:
        to_one = ratios(seconds, "mixed32", "one32")
        yield median_row("mixed32", split, "ratio_to_one", to_one)


@contextmanager
def clocked() -> Iterator[list[float]]:
    """Inside, whatever steering does is timed: setting up, each hook, and reading its counts.

    What a run shares with itself does not suffer from a noisy machine as two runs do. Calling a
    hook, which torch does, is not in it.
    """
    spent: list[float] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent.append(time.perf_counter() - began)

        return call

    names = ("__enter__", "__exit__", "verify", "_on_pass", "_on_passed")
    parts = [(HFModel, "_check"), *((Run, name) for name in names)]
    kept = [getattr(cls, name) for cls, name in parts]
    hooks = Run._on_site
    try:
        for (cls, name), function in zip(parts, kept, strict=True):
            setattr(cls, name, timed(function))
        Run._on_site = lambda run, site: timed(hooks(run, site))
        yield spent
    finally:
        Run._on_site = hooks
        for (cls, name), function in zip(parts, kept, strict=True):
            setattr(cls, name, function)


def share_rows(
    split: str, runs: Mapping[str, Callable[[], object]], rounds: int
) -> Iterator[Result]:
    """What steering's own code takes, relative to the rest of the run that it is part of."""
    for name, run in runs.items():
        shares: list[float] = []
        for _ in range(rounds):
            with clocked() as spent:
                began = time.perf_counter()
                run()
                whole = time.perf_counter() - began
            shares.append(sum(spent) / (whole - sum(spent)))
        if any(shares):
            yield median_row(name, split, "share", shares)


def memory_rows(split: str, used: Mapping[str, int]) -> Iterator[Result]:
    for method, peak in used.items():
        if method != "none":
            added = float(peak - used["none"])
            yield Result(SUITE, method, split, "added_memory", added, added, added, 1)


def our_rows(model: HFModel, shape: Shape, given: argparse.Namespace) -> Iterator[Result]:
    """Everything that runs in this process."""
    for batch in given.batches:
        split, inputs = f"batch{batch}", prompts(shape, batch, given.device)
        made = contexts(model, shape, batch)
        check_steers(model, made, inputs)

        def written(
            enter: Callable[[], AbstractContextManager[Any]],
            inputs: Mapping[str, Tensor] = inputs,
        ) -> None:
            with enter(), torch.no_grad():
                model.model.generate(**inputs, **sampling(shape.new))

        runs = {name: partial(written, enter) for name, enter in made.items()}
        seconds = interleaved(runs, given.rounds, device=given.device)
        yield from time_rows(split, seconds, batch * shape.new)
        if not given.device.startswith("cuda"):
            yield from share_rows(split, runs, max(2, given.rounds // 2))
        if given.device.startswith("cuda") or not given.compile:
            yield from memory_rows(split, peaks(runs, device=given.device))


def peer_rows(
    environment: str, found: Mapping[str, Any], given: argparse.Namespace
) -> Iterator[Result]:
    """What the peers of one environment cost, relative to its own unsteered model."""
    noise = {"none_again": f"none_again@{environment}"}
    for batch in given.batches:
        split = f"batch{batch}"
        seconds = {noise.get(k, k): v for k, v in found["seconds"][split].items()}
        used = {noise.get(k, k): v for k, v in found["peaks"][split].items()}
        new = SHAPES[given.shape].new
        yield from (r for r in time_rows(split, seconds, batch * new) if r.method != "none")
        yield from memory_rows(split, used)


def show(row: Result) -> Result:
    print(
        f"{row.split:8} {row.method:26} {row.metric:18} {row.value:<12.6g} "
        f"[{row.low:.6g}, {row.high:.6g}]  n {row.n}",
        flush=True,
    )
    return row


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--shape", choices=SHAPES, default="llama-1024")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="compile the decoder blocks")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument(
        "--peers-venv", type=Path, default=Path("runs/bench/peers"), help="where theirs are made"
    )
    parser.add_argument("--quick", action="store_true", help="tiny, two rounds: does it run?")
    given = parser.parse_args()
    if given.quick:
        given.shape = "quick"
    given.rounds = given.rounds or (2 if given.quick else 15)
    given.batches = given.batches or ([1, MIXED] if given.quick else [1, 8, MIXED])
    if given.peers and SHAPES[given.shape].vision:
        parser.error("--peers times Llama shapes only. Leave it out, or choose another --shape.")
    return given


def main() -> None:
    given = arguments()
    shape = SHAPES[given.shape]
    model = HFModel(build(shape, given.device), tokenizer(), id=given.shape)
    if given.compile:
        compile_blocks(model)
    rows = [show(row) for row in our_rows(model, shape, given)]
    peers: dict[str, Any] = {}
    if given.peers:
        options = ("shape", "rounds", "device")
        passed = [text for name in options for text in (f"--{name}", str(getattr(given, name)))]
        passed += ["--batches", ",".join(map(str, given.batches))]
        for environment, found in timed(given.peers_venv, passed):
            rows += [show(row) for row in peer_rows(environment, found, given)]
            peers[environment] = {"versions": found["versions"], "notes": found["notes"]}
            for name, note in found["notes"].items():
                print(f"{name}: {note}")
    cuda = given.device.startswith("cuda")
    meta = {
        "shape": given.shape,
        "rounds": given.rounds,
        "compiled": given.compile,
        "device": torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "date": datetime.date.today().isoformat(),
        "peers": peers,
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    Results(tuple(rows), meta).save(given.json)


if __name__ == "__main__":
    main()
