"""The shelf: policies of one folder, and of no other."""

import os
import shutil

import pytest
import torch

from steersman.core.errors import ArtifactError, ModelMismatchError
from steersman.core.io import Artifact, save_artifact
from steersman.core.serving import RefusedError
from steersman.core.shelf import Shelf
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import ModelSpec, Site
from steersman.gates.always import AlwaysOpen
from steersman.operators.add import Add
from steersman.synthesizers.static import StaticVector

SPEC = ModelSpec("toy", "Toy", 3, 2, fingerprint={"config": "a"})


def artifact(value=1.0, spec=SPEC):
    made = StaticVector(sites=(Site(0),), vectors=torch.full((1, 3), value))
    steerer = Steerer(sites=(Site(0),), gate=AlwaysOpen(), synthesizer=made, operator=Add())
    return Artifact(Policy(steerers={"s": steerer}), spec)


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(("one", "two")):
        save_artifact(artifact(float(i + 1)), tmp_path / "policies" / name)
    save_artifact(artifact(), tmp_path / "outside")
    return tmp_path / "policies"


def test_it_serves_what_is_in_the_folder(folder):
    shelf = Shelf(folder).open()
    assert shelf.ids == ("one", "two") and shelf["one"].digest != shelf["two"].digest
    shelf.unload("one")
    assert shelf.ids == ("two",) and shelf.on_disk() == ("one", "two")
    assert shelf.load("one").id == "one" and shelf.ids == ("one", "two")


def test_one_artifact_is_a_shelf_of_its_own(folder):
    assert Shelf(folder / "one").open().ids == ("one",)


@pytest.mark.parametrize(
    "name", ["../outside", "..", ".", "", "/etc", "one/../two", "one\0", "ONE/", "a" * 300]
)
def test_nothing_outside_of_the_folder_can_be_named(folder, name):
    with pytest.raises(RefusedError, match="E_UNKNOWN_POLICY"):
        Shelf(folder).load(name)


def test_a_link_out_of_the_folder_is_not_followed(folder):
    os.symlink(folder.parent / "outside", folder / "linked")
    with pytest.raises(RefusedError, match="E_UNKNOWN_POLICY"):
        Shelf(folder).load("linked")


def test_a_name_that_is_not_there_names_the_nearest(folder):
    with pytest.raises(RefusedError, match="Did you mean 'two'"):
        Shelf(folder).open()["tow"]


def test_a_new_version_replaces_the_old_one_only_if_it_can_be_read(folder):
    shelf = Shelf(folder).open()
    before = shelf["one"].digest
    shutil.rmtree(folder / "one")
    save_artifact(artifact(7.0), folder / "one")
    assert shelf["one"].digest == before and shelf.load("one").digest != before
    (folder / "one" / "steersman.safetensors").write_bytes(b"")
    after = shelf["one"].digest
    with pytest.raises(ArtifactError, match="truncated"):
        shelf.load("one")
    assert shelf["one"].digest == after


def test_another_models_policies_are_refused(folder):
    other = ModelSpec("toy", "Toy", 3, 2, fingerprint={"config": "b"})
    with pytest.raises(ModelMismatchError):
        Shelf(folder, spec=other).open()
    assert Shelf(folder, spec=other, force=True).open().ids == ("one", "two")


def test_what_cannot_be_served_is_refused_by_whoever_serves(folder):
    def accept(made):
        raise RefusedError("E_POINT", "not here")

    with pytest.raises(RefusedError, match="E_POINT"):
        Shelf(folder, accept=accept).open()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="nowhere"):
        Shelf(tmp_path / "nowhere")


def test_a_folder_without_policies_is_refused_with_what_was_looked_for(tmp_path):
    (tmp_path / "deep" / "one").mkdir(parents=True)
    save_artifact(artifact(), tmp_path / "deep" / "one")
    shelf = Shelf(tmp_path)
    with pytest.raises(ArtifactError, match=r"neither steersman.json nor \*/steersman.json"):
        shelf.open()


@pytest.mark.parametrize("name", ["my policy", "_one", "a" * 101])
def test_a_folder_whose_name_cannot_be_an_id_is_named_and_not_left_out(folder, name):
    save_artifact(artifact(), folder / name)
    with pytest.raises(ArtifactError, match=rf"cannot be ids: '{name}'.*Rename"):
        Shelf(folder).open()
    with pytest.raises(ArtifactError, match="cannot be ids"):
        Shelf(folder / name).open()


def test_hidden_folders_are_left_out(folder):
    save_artifact(artifact(), folder / ".half-written")
    assert Shelf(folder).open().ids == ("one", "two")


def test_the_folder_one_is_in_can_be_the_shelf(folder, monkeypatch):
    monkeypatch.chdir(folder / "one")
    assert Shelf(".").open().ids == ("one",)
