"""What fitting costs beside the language model: time, peak memory and loss of every method.

    python bench/fit.py --json runs/bench/fit.json [--quick] [--methods l2s,mose]

Rows: suite `fit`; splits `n2000`, `n100000` (rows; width 4096); metrics:

    seconds, seconds_reference            of one fit; the model's own time is taken out
    speedup                               seconds_reference / seconds
    loss, loss_reference                  what the fit ends with, where it has a loss (see below)
    peak_memory, peak_memory_reference    MiB: the largest resident size of the process, with the
                                          interpreter, the libraries and all inputs

The model is synthetic: rows of twelve kinds, each with its place and its contrast vector, thirty
shared directions and noise, made when they are read, 512 at a time. Every fit is `Method.fit` over
that model, in a process of its own. References are the papers' recipes, written plainly from their
specification with numpy and scikit-learn, on rows that are there as whole matrices:

    l2s          dictionary start (DictionaryLearning, the paper's for safety) and the same training
                 with whole standardised copies; ours is the default, the start by singular vectors.
                 The loss is that of the held-out rows after training.
    l2s_svd      the same with TruncatedSVD's start (the paper's for POPE)
    mose         SVD to 256 dimensions, K-means for every K, 20 starts, Calinski-Harabasz, and
                 full-batch AdamW on whole copies; both have narrow nets. The loss is that of
                 held-out rows.
    prober       StandardScaler and MLPClassifier; the loss is the cross entropy on further rows
    scs          full SVD of the rows to steer, energy ratios of all rows
    sas          the matrix of all pairwise cosines
    repe         PCA with svd_solver="full"
    alphasteer   the d x d projection and pseudo-inverse
    mean         all states kept, then the mean

At `n100000` there is no reference; training stops after two epochs and MoSE tries one K: the aim is
memory (8 GiB). Values are medians over rounds in shuffled order, intervals their range; slow
references run once. Where ours and the reference should be the same, the run ends if they are not.
"""

import argparse
import datetime
import json
import platform
import random
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import sklearn
import torch
from fits.references import Fields, references
from fits.synthetic import RULE, SITE, Synthetic, dataset, further, states
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss

from steersman.core.fitlog import FitLog
from steersman.core.steerer import Steerer
from steersman.core.types import Read, Site
from steersman.data.rows import Dataset
from steersman.evals.records import Result, Results
from steersman.methods.alphasteer import AlphaSteer
from steersman.methods.l2s import L2S
from steersman.methods.layer_choice import choose_layer
from steersman.methods.mean import MeanVector
from steersman.methods.mose import MixtureTraining, MoSE
from steersman.methods.net_training import NetTraining
from steersman.methods.prober import ProberFit
from steersman.methods.repe import RepE
from steersman.methods.scs import SCSFit
from steersman.selectors.layers import Layers
from steersman.selectors.sas import SafetyAwareness

SUITE = "fit"
SLOW = {"l2s", "l2s_svd", "mose", "alphasteer"}  # run once
SIDES = ("ours", "reference")
LARGE = ("l2s", "mose", "prober", "scs", "sas", "repe", "mean")
TOLERANCE = 1e-3


def methods(n: int, d: int, epochs: int | None) -> dict[str, Callable[[Synthetic, FitLog], Any]]:
    """By name, the fit; `epochs` shortens training where it is given."""
    layers = Layers(layers=(0,))
    short: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    net = NetTraining(**{"epochs": 30, **short})
    ks = {} if n < 10_000 else {"ks": (4,)}
    mixture = MixtureTraining(**{"epochs": 20, **short, **ks})
    contrasts, read = {"contrasts": RULE}, Read(SITE)
    l2s = L2S(site=SITE, context=read, net=net, **contrasts)
    sides = dataset(n, alone=True)

    def sas(model: Synthetic, log: FitLog) -> Site:
        return choose_layer(
            model, sides.rows, read=read, sites=[SITE], score=SafetyAwareness(), log=log
        )

    def fit(method: Any, data: Dataset) -> Callable[[Synthetic, FitLog], Any]:
        return lambda model, log: method.fit(model, data, log)

    steered = dataset(n, alone=False)
    return {
        "l2s": fit(l2s, steered),
        "l2s_svd": fit(l2s, steered),
        "mose": fit(MoSE(site=SITE, read=read, mixture=mixture, **contrasts), steered),
        "prober": fit(ProberFit(read=read, **short), sides),
        "scs": fit(SCSFit(read=read, k=min(128, d // 2)), sides),
        "sas": sas,
        "repe": fit(RepE(layers=layers, **contrasts), steered),
        "alphasteer": fit(AlphaSteer(layers=layers, **contrasts), sides),
        "mean": fit(MeanVector(site=SITE, **contrasts), steered),
    }


def told(name: str, made: Any, log: FitLog, model: Synthetic, n: int) -> Fields:
    """The loss of a fit, and what must equal the reference's, as a list of numbers."""
    found: dict[str, Any] = {}
    for record in log.records:
        if record["kind"] == "training":
            found["loss"] = record["validation"][record["kept"]]
        if record["kind"] == "layer_scores":
            found["same"] = [record["value"][0]]
    if name == "prober":
        x, positive = further(model, n)
        p = made.probability(x).double().numpy()
        found["loss"] = float(log_loss(positive, p))
    if name == "scs":
        found["same"] = made.ratio(states(model, range(0, 64))).tolist()
    if isinstance(made, Steerer) and name in ("repe", "alphasteer", "mean"):
        part = made.synthesizer
        vector = part.inputs[0] if name == "alphasteer" else part.vectors[0]
        found["same"] = vector.tolist()
    return found


def one(given: argparse.Namespace) -> None:
    """One fit in this process; prints what it took as JSON."""
    name, side = given.one.split(":")
    model, log = Synthetic(given.d), FitLog()
    n, d, epochs = given.n, given.d, given.epochs
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # imports half of torch
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if side == "ours":
            made = methods(n, d, epochs)[name](model, log)
            seconds = time.perf_counter() - began - model.seconds
            found = told(name, made, log, model, n)
        else:
            found = references(n, d, epochs)[name](model)
            seconds = time.perf_counter() - began - model.seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps({"seconds": seconds, "peak": peak, **found}) + "\n")


def run(name: str, side: str, n: int, d: int, epochs: int | None) -> Fields:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", f"{name}:{side}", "--n", str(n), "--d", str(d)]
    command += [] if epochs is None else ["--epochs", str(epochs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} ({side}, {n} rows) failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def median_row(name: str, split: str, metric: str, values: Sequence[float]) -> Result:
    """The median over rounds, and their range."""
    return Result(
        SUITE, name, split, metric, median(values), min(values), max(values), len(values), None
    )


def rows_of(name: str, split: str, made: Mapping[str, Sequence[Fields]]) -> Iterator[Result]:
    """All figures of one method, from what its rounds gave on each side."""
    for side, rounds in made.items():
        end = "" if side == "ours" else "_reference"
        yield median_row(name, split, f"seconds{end}", [r["seconds"] for r in rounds])
        yield median_row(name, split, f"peak_memory{end}", [r["peak"] for r in rounds])
        if "loss" in rounds[0]:
            yield median_row(name, split, f"loss{end}", [r["loss"] for r in rounds])
    if "reference" in made:
        theirs = [r["seconds"] for r in made["reference"]]
        ours = [r["seconds"] for r in made["ours"]]
        theirs += theirs[-1:] * (len(ours) - len(theirs))
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        yield median_row(name, split, "speedup", ratios)
        check_same(name, made["ours"][0], made["reference"][0])


def check_same(name: str, ours: Fields, theirs: Fields) -> None:
    """Ends the run if two ways to compute one thing differ."""
    if "same" not in ours:
        return
    a, b = np.array(ours["same"]), np.array(theirs["same"])
    error = float(np.abs(a - b).max() / np.abs(b).max())
    if not error < TOLERANCE:
        raise SystemExit(f"{name}: ours and the reference differ by {error:.2g} of the largest.")


def show(row: Result) -> Result:
    print(
        f"{row.split:8} {row.method:12} {row.metric:22} {row.value:<12.6g} "
        f"[{row.low:.6g}, {row.high:.6g}]  n {row.n}",
        flush=True,
    )
    return row


def measured(given: argparse.Namespace) -> Iterator[Result]:
    """Every method with its reference, round by round; then the large fits for their memory."""
    made: dict[str, dict[str, list[Fields]]] = {m: {s: [] for s in SIDES} for m in given.methods}
    order = random.Random(0)
    for turn in range(given.rounds):
        runs = [(m, s) for m in given.methods for s in SIDES if not (turn and m in SLOW)]
        order.shuffle(runs)
        for method, side in runs:
            found = run(method, side, given.n, given.d, given.epochs)
            made[method][side].append(found)
            print(f"{turn} {method} {side}: {found['seconds']:.2f} s", file=sys.stderr, flush=True)
    for method, sides in made.items():
        yield from rows_of(method, f"n{given.n}", sides)
    for method in given.methods:
        if method in LARGE:
            found = run(method, "ours", given.many, given.d, 2)
            yield from rows_of(method, f"n{given.many}", {"ours": [found]})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", type=lambda text: text.split(","))
    parser.add_argument("--n", type=int, default=2000, help="rows, with a reference")
    parser.add_argument("--many", type=int, default=100_000, help="rows, for memory")
    parser.add_argument("--d", type=int, default=4096, help="width")
    parser.add_argument("--epochs", type=int, help="of every training")
    parser.add_argument("--quick", action="store_true", help="tiny, two rounds: does it run?")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.quick:
        given.n, given.many, given.d, given.rounds, given.epochs = 160, 320, 64, 2, 3
    known = list(methods(4, given.d, None))
    given.methods = given.methods or known
    if unknown := sorted(set(given.methods) - set(known)):
        parser.error(f"there is no method {unknown[0]}. Choose among {', '.join(known)}.")
    if not given.one and not given.json:
        parser.error("--json FILE is missing.")
    return given


def main() -> None:
    given = arguments()
    if given.one:
        one(given)
        return
    rows = [show(row) for row in measured(given)]
    meta = {
        "d": given.d,
        "rounds": given.rounds,
        "device": f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "scikit-learn": sklearn.__version__},
        "date": datetime.date.today().isoformat(),
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    Results(tuple(rows), meta).save(given.json)


if __name__ == "__main__":
    main()
