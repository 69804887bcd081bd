"""`steersman capture`: reads into the cache what fitting some recipes needs."""

import time
from contextlib import ExitStack
from dataclasses import dataclass

from steersman.backends.cached import CachedModel
from steersman.cli.cache import CacheChoice, size, stoppable
from steersman.cli.console import CaptureLines, print_json, say, stages
from steersman.cli.fit import by_suite, captured
from steersman.cli.recipes import open_recipe
from steersman.cli.shared import VERSION, Workers, open_data, open_engine
from steersman.core.errors import RecipeError
from steersman.methods.fit import check_rows, fit_policy, refuse_requests


@dataclass(frozen=True)
class CaptureJob:
    """What was asked for on the command line."""

    recipes: tuple[str, ...]
    data: tuple[str, ...]
    model: str
    split: str | None
    overrides: tuple[str, ...]
    device: str
    dtype: str
    device_map: str | None = None
    cache: CacheChoice = CacheChoice()
    workers: Workers = Workers()


def run_capture(job: CaptureJob, *, as_json: bool) -> None:
    """Fits every recipe in front of a cache, and keeps what was read, not the policies."""
    store = job.cache.open()
    if store is None:
        raise RecipeError("Without a cache there is nothing to capture into. Give one.")
    plans = [open_recipe(recipe, job.overrides) for recipe in job.recipes]
    rows = by_suite([open_data(source, job.split) for source in job.data])
    for plan in plans:
        refuse_requests(plan)
        check_rows(plan, rows)
    began = time.monotonic()
    before = sum(one.num_bytes for one in store.holdings())
    with stoppable(store), ExitStack() as stack:
        note = stack.enter_context(stages(quiet=as_json))
        note("loading the model", 0.0)
        engine = stack.enter_context(
            open_engine(
                job.model,
                job.workers,
                device=job.device,
                device_map=job.device_map,
                dtype=job.dtype,
            )
        )
        backend = CachedModel(engine, store, CaptureLines() if as_json else note.capture)
        for i, plan in enumerate(plans):
            note(f"fitting {plan.name}", (i + 1) / (len(plans) + 1))
            fit_policy(backend, plan, rows, VERSION)
        said = {
            "recipes": [plan.source for plan in plans],
            "model": backend.spec.id,
            "cache": str(store.root),
            "bytes": sum(one.num_bytes for one in store.holdings()) - before,
            "seconds": round(time.monotonic() - began, 1),
            "capture": captured(backend),
        }
    if as_json:
        print_json(said)
        return
    done = backend.totals
    say(f"read {done.rows - done.cached:,} rows in {said['seconds']} s; {done.cached:,} were known")
    say(f"  {'model':12} {said['model']}")
    say(f"  {'tokens':12} {done.tokens:,}")
    say(f"  {'kept':12} {size(int(str(said['bytes'])))} more, in {store.root}")
    for told in backend.notes:
        say(f"  {'note':12} {told}")
