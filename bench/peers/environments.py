"""Environments of their own for the peers: what they need does not go with what we need."""

import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PEERS = {
    "transformers-5": ("repeng", "pyvene", "nnsight"),
    "transformers-4": ("steering-vectors",),
}
"""By environment, which is also the name of its requirements: who runs there."""


def environment(name: str, folder: Path) -> Path:
    """The Python of an environment that has exactly what its requirements say.

    Made by the first call and again when the requirements change. pip's own settings
    (PIP_INDEX_URL, PIP_FIND_LINKS) say where a CPU build of torch comes from.
    """
    wanted = (HERE / f"{name}.txt").read_text(encoding="utf-8")
    home = folder.absolute() / name
    python, stamp = home / "bin/python", home / "installed.txt"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    venv.create(home, clear=True, with_pip=True)
    command = [python, "-m", "pip", "install", "--quiet", "-r", HERE / f"{name}.txt"]
    subprocess.run(command, check=True)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def timed(
    folder: Path,
    options: Sequence[str],
    *,
    module: str = "peers.run",
    peers: Mapping[str, Sequence[str]] = PEERS,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What `module` found in every environment; output of the peers goes to stderr."""
    for name, theirs in peers.items():
        python = environment(name, folder)
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch) / "made.json"
            command = [python, "-m", module, "--json", made, "--peers", ",".join(theirs)]
            subprocess.run([*command, *options], check=True, cwd=HERE.parent, stdout=sys.stderr)
            yield name, json.loads(made.read_text(encoding="utf-8"))
