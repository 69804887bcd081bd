"""What the tests of Ray share. Workers import it too: it holds what they hold."""

import os
import signal
import time
from pathlib import Path

import torch

import tiny
from steersman.backends.hf import HFModel, load
from steersman.backends.ray_workers import Cluster
from steersman.core.types import Prompt, Site

HERE = str(Path(__file__).parent)
LOCAL = Cluster(num_workers=2, object_store_bytes=200_000_000)
SITES = (Site(0), Site(2))


class Watched(HFModel):
    """Leaves its process id before each window, and takes its time where there is a file `slow`."""

    folder: Path

    def read(self, prompts, windows, reading, known=()):
        (self.folder / f"ran-{os.getpid()}-{time.monotonic_ns()}").touch()
        if (self.folder / "slow").exists():
            time.sleep(0.5)
        yield from super().read(prompts, windows, reading, known)


def watched(source, folder):
    torch.set_num_threads(1)
    model = load(source)
    made = Watched(model.model, model.chat.processor, id=model.spec.id)
    made.folder = folder
    return made


def deadly():
    os.kill(os.getpid(), signal.SIGKILL)


def pids(folder):
    """Who ran a window."""
    return {int(file.name.split("-")[1]) for file in folder.glob("ran-*")}


def on_disk(folder):
    """A tiny model as workers find it."""
    model = tiny.llama()
    model.model.save_pretrained(folder)
    model.chat.processor.save_pretrained(folder)
    return str(folder)


def prompts(num):
    """Pairs that share their prompt."""
    words = tiny.WORDS
    return [
        Prompt(f"{words[i // 133 % 13]} do i {words[i % 7]} {words[i // 7 % 19]}", completion=said)
        for i in range(num // 2)
        for said in ("yes", "no .")
    ]


def same(rows, wanted):
    """Equal but for rounding: threads, and who ran beside whom, may differ."""
    assert rows.rows.keys() == wanted.rows.keys()
    for site, states in wanted.rows.items():
        torch.testing.assert_close(rows[site], states, rtol=1e-5, atol=1e-6)
