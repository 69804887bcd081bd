"""Shared helpers live beside this file. One thread each: runs beside each other are fair."""

import os
import sys
from pathlib import Path
from uuid import uuid4

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_row_cache(tmp_path_factory):
    """No test reads or writes the user's row cache."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STEERSMAN_CACHE", str(tmp_path_factory.getbasetemp() / "row-cache"))
        yield


@pytest.fixture(autouse=True)
def _fresh_row_cache(_own_row_cache, monkeypatch, tmp_path_factory):
    """Nor does one know what another has read."""
    monkeypatch.setenv("STEERSMAN_CACHE", str(tmp_path_factory.getbasetemp() / uuid4().hex))
