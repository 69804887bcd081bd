"""Same seed, same data, same machine: the same artifact, for every recipe of the bundled world."""

import os
import subprocess
import sys
from importlib.resources import files

import pytest

import steersman
from steersman.core.recipe import read_recipe
from steersman.experiments.memo import MemoModel
from steersman.methods.fit import fit_policy
from steersman.world.rows import SUITES, Sizes, SplitSizes
from steersman.world.write import write_world

FOLDER = files("steersman.world") / "recipes"
RECIPES = sorted(path.stem for path in FOLDER.iterdir() if path.name.endswith(".toml"))
AT_REQUEST_TIME = {"p2s"}  # its vectors come with the requests: there is no artifact
ROWS = SplitSizes(90, 1, 1)
# Fitted in another process by this file run as a script, which prints the hashes.
IN_FRESH_PROCESSES = ("safety", "mose", "repe", "scs_l2s", "composed")


def data(folder):
    write_world(folder, sizes=Sizes(ROWS, ROWS, ROWS))
    return {suite: steersman.load_data(folder / suite / "fit") for suite in SUITES}


def content_hash(model, rows, name):
    return fit_policy(model, read_recipe(FOLDER / f"{name}.toml"), rows).content_hash()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return MemoModel(steersman.load("bundled")), data(folder), folder


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in RECIPES if n not in AT_REQUEST_TIME])
def test_two_fits_in_one_process_give_the_same_artifact(world, name):
    model, rows, _ = world
    assert content_hash(model, rows, name) == content_hash(model, rows, name)


@pytest.mark.slow
def test_two_fresh_processes_give_the_same_artifacts(world):
    """With other hash seeds, so with sets in another order."""
    _, _, folder = world
    made = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, __file__, folder],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        made.append(done.stdout.splitlines())
    assert made[0] == made[1] and len(made[0]) == len(IN_FRESH_PROCESSES)


def main(folder):
    model = steersman.load("bundled")
    rows = {suite: steersman.load_data(f"{folder}/{suite}/fit") for suite in SUITES}
    for name in IN_FRESH_PROCESSES:
        sys.stdout.write(f"{name} {content_hash(model, rows, name)}\n")


if __name__ == "__main__":
    main(sys.argv[1])
