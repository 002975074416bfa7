"""What tests of several recipes begin with, made once. Modules write to copies of it."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def drawn_pictures(tmp_path_factory) -> Path:
    """A work folder with the pictures of four people."""
    from flexid.mini.training import data
    from flexid.mini.training.options import Options

    folder = tmp_path_factory.mktemp("pictures")
    data.build(folder, None, Options(people=4, groups=6, processes=1))
    return folder


@pytest.fixture(scope="module")
def pictures_work(drawn_pictures, tmp_path_factory) -> Path:
    return shutil.copytree(drawn_pictures, tmp_path_factory.mktemp("work") / "pictures")


@pytest.fixture(scope="session")
def built_people(tmp_path_factory) -> Path:
    """The folder of `identity_world.build`: three people, and random models."""
    from identity_world import build

    return build(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def people_work(built_people, tmp_path_factory) -> Path:
    return shutil.copytree(built_people, tmp_path_factory.mktemp("work") / "people")
