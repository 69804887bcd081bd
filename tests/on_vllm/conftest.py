"""Tests against a real vLLM: `make test-vllm`, in an environment of their own.

Where vLLM is not installed they are left out of runs of the whole suite; named, they fail.
"""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
INSTALLED = find_spec("vllm") is not None

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# One process for front end, engine core and worker: it starts in seconds, and a test can watch it.
# The tests over HTTP and those of two ranks have them apart.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"


def pytest_configure(config):
    """Warnings of vLLM and of what it imports are not ours to mend; ours still fail."""
    for line in ("default", r"error:::steersman(\..*)?"):
        config.addinivalue_line("filterwarnings", line)


def pytest_ignore_collect(collection_path, config):
    """Nothing here is collected without vLLM, but where somebody asks for it by name."""
    named = any(_below(HERE, argument) for argument in config.args)
    return True if not INSTALLED and not named else None


def _below(folder: Path, argument: str) -> bool:
    return Path(argument.split("::")[0]).resolve().is_relative_to(folder)


@pytest.fixture(scope="session", autouse=True)
def _compiled_here(tmp_path_factory):
    """Nor does a run find graphs that another compiled."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VLLM_CACHE_ROOT", str(tmp_path_factory.getbasetemp() / "vllm"))
        yield


@pytest.fixture(scope="session")
def model():
    """The bundled model on transformers, which says what is right."""
    import steersman

    return steersman.load("bundled")


@pytest.fixture(scope="session")
def shelf(model, tmp_path_factory):
    """The folder of policies, and each of them by its id."""
    from on_vllm.policies import Policies

    return Policies(model, tmp_path_factory.mktemp("policies"))


@pytest.fixture(scope="session")
def engines(shelf):
    """Starts vLLM, one at a time."""
    from on_vllm.engines import Engines

    started = Engines(shelf.folder)
    yield started
    started.close()
