"""Every block of the README runs, in order, as a newcomer would type it."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from steersman.cli.main import app
from steersman.world.rows import Sizes, SplitSizes
from steersman.world.write import write_world

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SKIPPED = ("git clone", "make ")  # what CI itself does


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder like a fresh clone, with what the README tells its reader to write."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", folder / "examples")
    small = SplitSizes(fit=180, calibration=45, test=18)
    write_world(folder / "runs/world", sizes=Sizes(safety=small, pope=small, utility=small))
    own = folder / "my_data"
    (own / "images").mkdir(parents=True)
    rows = [json.loads(line) for line in blocks("json")[0].splitlines()]
    (own / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    picture = next((folder / "runs/world/safety/fit/images").glob("*.png"))
    for row in rows:
        if "image" in row:
            shutil.copy(picture, own / row["image"])
    (folder / "recipe.toml").write_text(blocks("toml")[0])
    return folder


def test_the_commands_run(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    commands = [
        line
        for block in blocks("bash")
        if not serves(block)
        for line in block.splitlines()
        if line.strip() and not line.startswith(SKIPPED)
    ]
    assert len(commands) >= 6
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "steersman"
        if words[1:3] == ["world", "write"]:
            continue  # written smaller by the fixture
        result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
        assert result.exit_code == 0, f"{command}\n{result.output}"


@pytest.fixture
def fitted(workplace, monkeypatch):
    """The same folder with the policy that the README fits, whichever test comes first."""
    monkeypatch.chdir(workplace)
    if not (workplace / "runs/policy").is_dir():
        lines = [line for block in blocks("bash") for line in block.splitlines()]
        line = next(line for line in lines if line.endswith("--out runs/policy"))
        result = CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    return workplace


def serves(block: str) -> bool:
    """Whether a block leaves something running, and so must run as one."""
    return " &\n" in block


def test_the_server_answers(fitted):
    (block,) = (block for block in blocks("bash") if serves(block))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        ["bash", "-m", "-c", block.replace("8765", str(port))],
        cwd=fitted,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    answer = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert answer["steering"]["policy"] == "policy", done.stderr
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_the_ten_lines_run(fitted, capsys):
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    said = capsys.readouterr().out
    assert "Completion(" in said and "SteererTrace(" in said


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
