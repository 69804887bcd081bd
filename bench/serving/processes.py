"""Servers in processes of their own, and the loads that are run on them."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from serving.load import Load

BENCH = Path(__file__).parents[1]


class EngineProcess:
    """A vLLM engine, as engine.py holds it.

    Args:
        python: of the environment that has vLLM.
        settings: of `AsyncEngineArgs`.
        log: file that gets what it prints.
    """

    def __init__(self, python: Path, settings: Mapping[str, Any], log: Path) -> None:
        quiet = {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING", "TQDM_DISABLE": "1"}
        path = [str(BENCH), *filter(None, [os.environ.get("PYTHONPATH")])]
        ours = {"PYTHONPATH": os.pathsep.join(path)}
        self._log = log
        with log.open("w") as printed:
            self._process = subprocess.Popen(
                [str(python), "-m", "serving.engine", json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                text=True,
                env={**os.environ, **quiet, **ours},
                start_new_session=True,
            )

    def wait(self) -> None:
        """Until it can be asked."""
        self._line()

    def run(self, load: Load) -> dict[str, float]:
        """The figures of a load."""
        return self._ask({"load": load.plain()})

    def trace(self, steering: Mapping[str, Any]) -> Any:
        """What steering did to one request."""
        return self._ask({"trace": dict(steering)})

    def close(self) -> None:
        """Ends it and all it started."""
        assert self._process.stdin
        with suppress(OSError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _ask(self, asked: object) -> Any:
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        return self._line()["answer"]

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        said = json.loads(line) if line else {"error": "the process ended"}
        if "error" in said:
            tail = "\n".join(self._log.read_text().splitlines()[-15:])
            raise SystemExit(f"The engine failed: {said['error']}\n{self._log}:\n{tail}")
        return said
