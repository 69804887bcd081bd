"""What serving costs with steering: vLLM with and without the plugin, and the embedded server.

    make env-vllm
    python bench/serve.py --json runs/bench/serve.json [--parts steps,prefix,costs,http,embedded]

vLLM runs in an environment of its own (`--python`); engines are asked in process (`AsyncLLM`), so
that no HTTP client's noise lies over a token's few milliseconds. The part `http` tells what the
middleware adds. Parts:

    steps     vanilla vLLM; the plugin with 71 policies loaded and no request steered (`idle`); a
              static vector, L2S, L2S that reads above where it writes (`l2s_probe`: a pass before
              the one that writes), AutoSteer and FineSteer for every request; at 64 clients 1, 8
              and 64 different nets (`k1`, `k8`, `k64`) and 64 strengths of one. No prefix cache.
    prefix    prefix caching on, prompts that share their beginning: the share of prompt tokens
              that the cache had (`hits`), and what that does to times.
    costs     seconds per request, prompt token and new token, for bench/serving/model.py.
    http      `vllm serve` with and without the plugin.
    embedded  `steersman serve`: unsteered (`idle`) and steered, the same process.

Vanilla and plugin are engines of their own, alive at the same time; rounds run all cases in turn,
each round in an order of its own, and the first is thrown away. What is compared are ratios within
a round: `X_to_vanilla`, `X_to_idle` (the same process) and `X_to_one` (to `k1`). A value is the
mean over sittings (all engines started anew) of the median over rounds; its interval is a 95%
bootstrap over sittings and rounds. `vanilla_again`, a second vanilla engine, and `idle_again` say
how far equal things lie apart. Answers have one length: end tokens are ignored. An aim is `held`
or `missed` if its whole interval is on one side of it, widened by what the interval between equal
things leaves out of 1; else, and with fewer than six rounds, it is `open`.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving.cases import SYSTEMS, base, costs, prefixes, served_steps, steps
from serving.clients import HttpServer
from serving.policies import MODELS, Served, served, write_policies
from serving.processes import EngineProcess
from serving.rounds import Case, Runs, Server, check_steers, interleaved
from serving.tables import COSTS, aims, coefficients, cost_rows, plain_aims, rows, shown

from steersman.evals.records import Result, Results
from steersman.server.vllm_launch import SERVER

PARTS = ("steps", "prefix", "costs", "http", "embedded")
ROOT = Path(__file__).parents[1]
Tables = Mapping[str, Mapping[str, Case]]
"""Cases by name, by split."""


class Bench:
    """One model, and the servers of it."""

    def __init__(self, given: argparse.Namespace, model: Served, folder: Path) -> None:
        self.given, self.model, self.folder = given, model, folder
        self.policies = write_policies(model, folder / f"{model.name}-policies")

    def settings(self, *, plugin: bool, cached: bool) -> dict[str, Any]:
        """Of a vLLM engine."""
        made: dict[str, Any] = {
            "model": str(self.model.folder),
            "dtype": self.given.dtype,
            "max_model_len": min(512, self.model.positions),
            "max_num_seqs": max(64, *self.given.concurrency),
            "max_num_batched_tokens": 2048,
            "kv_cache_memory_bytes": 1 << 30,
            "enable_prefix_caching": cached,
            "enforce_eager": self.given.eager,
            "disable_log_stats": True,
        }
        made |= {"block_size": 32} if cached else {}
        steering = {"steersman": {"policies": str(self.policies)}}
        return {**made, "additional_config": steering} if plugin else made

    def engine(self, name: str, *, cached: bool) -> EngineProcess:
        """A vLLM engine in process."""
        settings = self.settings(plugin=name == "plugin", cached=cached)
        log = self.given.logs / f"{self.model.name}-{name}.log"
        return EngineProcess(self.given.python, settings, log)

    def vllm_server(self, name: str) -> HttpServer:
        """`vllm serve`."""
        bare = self.settings(plugin=False, cached=False)
        keys = ("dtype", "max_model_len", "max_num_seqs", "max_num_batched_tokens")
        flags = [f"--{key.replace('_', '-')}={bare[key]}" for key in keys]
        flags += ["--kv-cache-memory-bytes", str(bare["kv_cache_memory_bytes"])]
        flags += ["--no-enable-prefix-caching", *(["--enforce-eager"] if self.given.eager else [])]
        if name == "plugin":
            flags += ["--additional-config", f'{{"steersman": {{"policies": "{self.policies}"}}}}']
        command = [str(self.given.python), "-m", SERVER, "--model", str(self.model.folder)]
        return HttpServer(
            [*command, *flags],
            model=self.model.folder,
            ids=True,
            log=self.given.logs / f"{self.model.name}-{name}-http.log",
            environment={"VLLM_PLUGINS": "steersman"} if name == "plugin" else {},
        )

    def embedded(self) -> HttpServer:
        """`steersman serve`."""
        command = [sys.executable, "-m", "steersman.cli.main", "serve"]
        flags = ["--model", str(self.model.folder), "--policies", str(self.policies)]
        return HttpServer(
            [*command, *flags, "--max-batch", "64"],
            model=self.model.folder,
            ids=False,
            log=self.given.logs / f"{self.model.name}-embedded.log",
        )

    def tables(self, part: str) -> Tables:
        """What a part runs, by the name of its split."""
        name, quick = self.model.name, self.given.quick
        loads = [base(self.model, c, quick=quick) for c in self.given.concurrency]
        if part == "prefix":
            return {f"{name}-prefix": prefixes(self.model, quick=quick)}
        if part == "costs":
            return {f"{name}-costs": costs(self.model, max(self.given.concurrency))}
        if part == "steps":
            return {f"{name}-c{x.concurrency}": steps(x, again=self.given.again) for x in loads}
        return {
            f"{name}-{part}-c{x.concurrency}": served_steps(x, embedded=part == "embedded")
            for x in loads
        }

    def start(self, part: str, names: Sequence[str]) -> dict[str, Server]:
        """The servers of a part, one after the other: starting is what takes all cores."""
        started: dict[str, Server] = {}
        try:
            for name in names:
                if part == "embedded":
                    started[name] = self.embedded()
                elif part == "http":
                    started[name] = self.vllm_server(name)
                else:
                    started[name] = self.engine(name, cached=part == "prefix")
                started[name].wait()
                if name == "plugin":
                    check_steers(started[name], SYSTEMS)
        except BaseException:
            close(started)
            raise
        return started


def close(servers: Mapping[str, Server]) -> None:
    for server in servers.values():
        server.close()


@contextmanager
def running(bench: Bench, part: str, tables: Tables) -> Iterator[dict[str, Server]]:
    """The servers that a part's cases name."""
    names = dict.fromkeys(case.server for cases in tables.values() for case in cases.values())
    servers = bench.start(part, list(names))
    try:
        yield servers
    finally:
        close(servers)


def chosen(tables: Tables, given: argparse.Namespace) -> Tables:
    """All cases, or those of vanilla vLLM alone."""
    if not given.vanilla_only:
        return tables
    return {
        split: {name: case for name, case in cases.items() if case.server != "plugin"}
        for split, cases in tables.items()
    }


def measured(bench: Bench, part: str) -> Iterator[Result]:
    """The rows of one part, one model."""
    given, tables = bench.given, chosen(bench.tables(part), bench.given)
    found: dict[str, list[Runs]] = {split: [] for split in tables}
    for sitting in range(given.sittings):
        with running(bench, part, tables) as servers:
            for split, cases in tables.items():
                seed = 1000 * sitting
                found[split].append(interleaved(servers, cases, given.rounds, seed=seed))
    for split, sittings in found.items():
        if part == "costs":
            methods = dict.fromkeys(name.rsplit("_", 2)[0] for name in tables[split])
            fits = {m: [coefficients(runs, m) for runs in sittings] for m in methods}
            given.fits[split] = {"names": list(COSTS), "rounds": fits}
            yield from cost_rows(split, fits)
        else:
            yield from rows(split, sittings)


def show(row: Result) -> Result:
    print(shown(row), flush=True)
    return row


def vllm_versions(python: Path) -> dict[str, str]:
    """Of the environment that has vLLM.

    Raises:
        SystemExit: there is none.
    """
    code = "from importlib.metadata import version as v, packages_distributions as p\n"
    code += "print(p()['vllm'][0], v(p()['vllm'][0]), v('torch'))"
    try:
        done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"{python} has no vLLM ({error}). Run `make env-vllm`, give the python of an "
            "environment that has it (--python), or time only `--parts embedded`."
        ) from error
    name, version, torch = done.stdout.split()
    return {name: version, "torch": torch}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def listed(text: str) -> list[str]:
        return text.split(",")

    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--parts", type=listed, default=list(PARTS))
    parser.add_argument("--models", type=listed, default=["bundled", "llama-100m"])
    parser.add_argument("--concurrency", type=lambda t: [int(n) for n in t.split(",")])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--sittings", type=int)
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-vllm/bin/python")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--eager", action="store_true", help="vLLM without compiled graphs")
    parser.add_argument("--again", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--vanilla-only", action="store_true", help="without the plugin")
    parser.add_argument("--quick", action="store_true", help="tiny, two rounds: does it run?")
    given = parser.parse_args()
    if given.quick:
        given.models = ["tiny"]
    for name, known in (("parts", PARTS), ("models", MODELS)):
        for one in getattr(given, name):
            if one not in known:
                parser.error(f"--{name}: there is no {one}; there are {', '.join(known)}.")
    given.rounds = given.rounds or (2 if given.quick else 15)
    given.sittings = given.sittings or (1 if given.quick else 3)
    given.concurrency = given.concurrency or ([1, 8] if given.quick else [1, 8, 64])
    given.logs = given.json.parent / f"{given.json.stem}-logs"
    given.logs.mkdir(parents=True, exist_ok=True)
    given.fits = {}
    return given


def main() -> None:
    given = arguments()
    versions = {} if given.parts == ["embedded"] else vllm_versions(given.python)
    made: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="steersman-serve-") as folder:
        for name in given.models:
            bench = Bench(given, served(name, Path(folder)), Path(folder))
            for part in given.parts:
                made += [show(row) for row in measured(bench, part)]
    for one, limit, said in aims(made):
        print(f"{said:7} at most {limit:.1%}: {shown(one)}")
    meta = {
        "models": given.models,
        "dtype": given.dtype,
        "rounds": given.rounds,
        "sittings": given.sittings,
        "eager": given.eager,
        "device": f"CPU ({platform.machine()}, {os.cpu_count()} cores)",
        "versions": versions,
        "date": datetime.date.today().isoformat(),
        "aims": plain_aims(made),
        "fits": given.fits,
    }
    Results(tuple(made), meta).save(given.json)


if __name__ == "__main__":
    main()
