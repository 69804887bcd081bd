"""Workers on a Ray cluster that each hold the model, and work that outlives the death of any.

When a worker dies, a new one is started, and what it was doing is done by whoever is free. The
model is loaded once per worker and run, not once per call: a pool of Ray Data's own would live for
one call (docs/adr/0011).
"""

import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from steersman.core.errors import MissingExtraError, ModelError, RecipeError, SteersmanError

try:
    import ray
    from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError
except ImportError as error:
    raise MissingExtraError(
        'Running on several workers needs Ray. Install it: pip install "steersman[ray]"'
    ) from error

LOCAL = "local"
DEAD = (RayActorError, ObjectLostError, OutOfMemoryError)
DEATHS = 3
"""How often a worker may die over one piece of work, or while it loads the model."""
AHEAD = 2  # calls a worker holds at once: it computes one while the last one's rows travel
CONNECT_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Which cluster to run on, and what each worker may use of it.

    Attributes:
        address: "local" starts a cluster on this machine and stops it in the end; "auto" finds the
            one that this machine is a node of; HOST:PORT names its head. A process that has called
            `ray.init` stays with its cluster.
        num_workers: copies of the model; if None, one per `gpus` that the cluster has, or two.
        cpus: CPU cores of each worker; on a CPU its number of threads.
        gpus: GPUs of each worker. It sees no others.
        patience: seconds to wait for the first worker to have loaded the model.
        object_store_bytes: shared memory of a local cluster, where Ray's own choice does not do.

    Raises:
        RecipeError: a number is out of range.
    """

    address: str = LOCAL
    num_workers: int | None = None
    cpus: int = 1
    gpus: float = 0
    patience: float = 1800
    object_store_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 1:
            raise RecipeError(f"{self.num_workers} workers cannot run a model. Give 1 or more.")
        if self.cpus < 1 or self.gpus < 0:
            raise RecipeError(
                f"A worker cannot have {self.cpus} CPU cores and {self.gpus} GPUs. Give at least "
                "one core, and no negative number."
            )


class Crew:
    """The workers of a run.

    Args:
        holder: class of what each worker holds. Its method `about` gets it ready, and says who it
            is: a mapping that must be the same for all workers.
        given: what the class is made with.

    Raises:
        RecipeError: there is no such cluster, or it is too small.
    """

    def __init__(self, cluster: Cluster, holder: type, *given: object) -> None:
        self._cluster = cluster
        self._workers: dict[int, Any] = {}
        self._away: dict[Any, int] = {}
        self._deaths = Counter[int]()
        self._started = not ray.is_initialized()
        if self._started:
            _connect(cluster)
        elif cluster.address not in (LOCAL, "auto"):
            raise RecipeError(
                f"This process is connected to a Ray cluster, and {cluster.address} may be "
                "another. Write 'auto' to use the one it is connected to, or ray.shutdown() first."
            )
        try:
            self._new = partial(
                ray.remote(holder)
                .options(num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_restarts=0)
                .remote,
                *given,
            )
            for i in range(_size(cluster)):
                self._start(i)
        except BaseException:
            self.close()
            raise
        self._about: Mapping[str, Any] | None = None

    @property
    def size(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    def about(self) -> Mapping[str, Any]:
        """Who the workers are, as soon as the first one can tell."""
        while self._about is None:
            self._wait({})
        return self._about

    def wait(self) -> None:
        """Until every worker is there; reading begins without, as soon as one is."""
        while self._away:
            self._wait({})

    def each(self, call: str, jobs: Sequence[tuple[object, ...]]) -> Iterator[tuple[int, Any]]:
        """What `call` makes of each job, with the job's number, as they are done.

        Raises:
            SteersmanError: as a worker raised it.
            ModelError: a job, or loading the model, is the death of every worker that tries.
        """
        waiting, deaths = deque(range(len(jobs))), Counter[int]()
        flying: dict[Any, tuple[int, Any, int]] = {}
        while waiting or flying:
            held = Counter(i for i, _, _ in flying.values())
            load = {i: held[i] for i in range(self.size) if i not in self._away.values()}
            while waiting and load:
                i = min(load, key=lambda one: load[one])
                if load[i] >= AHEAD:
                    break
                job = waiting.popleft()
                worker = self._workers[i]
                flying[getattr(worker, call).remote(*jobs[job])] = (i, worker, job)
                load[i] += 1
            done = self._wait(flying)
            if done is None:
                continue
            i, worker, job = flying.pop(done)
            try:
                yield job, ray.get(done)
            except DEAD as error:
                waiting.appendleft(job)
                deaths[job] += 1
                if deaths[job] >= DEATHS:
                    raise ModelError(
                        f"{DEATHS} workers died one after the other over the same piece of work. "
                        "Most likely they ran out of memory: give a worker fewer prompts at a "
                        f"time, or more memory. Ray says: {error}"
                    ) from error
                if self._workers[i] is worker:  # else the call before it told
                    self._start(i)
            except RayTaskError as error:
                raise _cause(error) from error

    def _start(self, i: int) -> None:
        """Starts a worker, in the place of one that is dead or cannot be reached.

        Ray could start a dead one again by itself, but refuses calls until it is back.
        """
        if i in self._workers:
            ray.kill(self._workers[i])
        self._workers[i] = self._new()
        self._away[self._workers[i].about.remote()] = i

    def _wait(self, flying: Mapping[Any, object]) -> Any:
        """A call that is done, or None when a worker is there (again)."""
        busy = bool(flying) or len(self._away) < self.size
        done, _ = ray.wait(
            [*flying, *self._away], num_returns=1, timeout=None if busy else self._cluster.patience
        )
        if not done:
            raise ModelError(
                f"No worker had loaded the model after {self._cluster.patience:g} s. "
                f"{self.size} were asked for, with {self._needs()} each; of the cluster, "
                f"{_told(ray.available_resources())} are free. Wait for it, ask for less, or add "
                "machines."
            )
        if done[0] in flying:
            return done[0]
        i = self._away.pop(done[0])
        try:
            about = ray.get(done[0])
        except RayActorError as error:
            if error.actor_init_failed:
                raise ModelError(
                    f"Worker {i} could not be started. Steersman, and whatever makes the model, "
                    f"must be installed on every machine of the cluster. Ray says: {error}"
                ) from error
            self._deaths[i] += 1
            if self._deaths[i] >= DEATHS:
                raise ModelError(
                    f"Worker {i} died {DEATHS} times while it loaded the model. Most likely its "
                    "machine has too little memory: ask for fewer workers per machine, or for a "
                    f"smaller dtype. Ray says: {error}"
                ) from error
            self._start(i)
            return None
        except RayTaskError as error:
            raise _cause(error) from error
        self._deaths[i] = 0
        self._about = self._about or about
        if other := [name for name in about if about[name] != self._about[name]]:
            first, name = self._about[other[0]], other[0]
            raise ModelError(
                f"Worker {i} holds another model than the first worker: its {name} is "
                f"{about[name]}, not {first}. Give every machine the same files and the same "
                "versions of torch and transformers."
            )
        return None

    def _needs(self) -> str:
        return _told({"CPU": self._cluster.cpus, "GPU": self._cluster.gpus})

    def close(self) -> None:
        """Ends the workers, and the cluster where it was started here."""
        for worker in self._workers.values():
            ray.kill(worker)
        self._workers = {}
        if self._started:
            ray.shutdown()
            self._started = False


def shared(value: object) -> Any:
    """Puts what several calls need into the cluster once; the calls get the value itself."""
    return ray.put(value)


def _connect(cluster: Cluster) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning by Ray
    if cluster.address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address=LOCAL,
            include_dashboard=False,
            num_cpus=None if cluster.num_workers is None else cluster.num_workers * cluster.cpus,
            object_store_memory=cluster.object_store_bytes,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
        return
    if cluster.address != "auto":
        _knock(cluster.address)
    try:
        ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise RecipeError(
            f"The Ray cluster {cluster.address!r} cannot be used: {first} Run this on a machine of "
            "the cluster (`ray start --address HOST:PORT` makes it one), or write 'local'."
        ) from error


def _knock(address: str) -> None:
    """Whether anybody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise RecipeError(
            f"{address!r} is no address of a Ray cluster. Write 'local', 'auto', or the head's "
            "HOST:PORT, as `ray start --head` prints it (the port is 6379 if none was chosen)."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RecipeError(
            f"Nobody answers at {address} ({error}). Start the cluster's head there with `ray "
            f"start --head --port {port}`, correct the address, or write 'local'."
        ) from error


def _size(cluster: Cluster) -> int:
    there = ray.cluster_resources()
    wanted = cluster.num_workers
    if wanted is None:
        wanted = max(1, int(there.get("GPU", 0) // cluster.gpus)) if cluster.gpus else 2
        if not cluster.gpus and there.get("CPU", 0) < 2 * cluster.cpus:
            wanted = 1
    needs = {"CPU": wanted * cluster.cpus, "GPU": wanted * cluster.gpus}
    if any(there.get(name, 0) < number for name, number in needs.items()):
        raise RecipeError(
            f"{wanted} workers need {_told(needs)}, and the cluster has {_told(there)}. Ask for "
            "fewer workers, for less per worker, or add machines first."
        )
    return wanted


def _told(resources: Mapping[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPU cores and {resources.get('GPU', 0):g} GPUs"


def _cause(error: Any) -> BaseException:
    """What the worker raised, if on purpose; else Ray's account of it, with the traceback."""
    return error.cause if isinstance(error.cause, SteersmanError) else error
