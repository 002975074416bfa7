"""A file is replaced whole or not at all, and anybody may read it whom the umask lets."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from flexid.model_patches.files import atomic
from flexid.model_patches.files.atomic import creating, replacing

pytestmark = pytest.mark.pure

both = pytest.mark.parametrize("writing", [replacing, creating])


def test_it_replaces_what_was_there(tmp_path):
    path = tmp_path / "new" / "file"
    for text in ("first", "second"):
        with replacing(path) as temporary:
            temporary.write_text(text)
            assert temporary.parent == path.parent, "renaming works within a file system only"
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(RuntimeError, match="full"), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("disk full")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
@pytest.mark.parametrize("umask", [0o022, 0o077])
@both
def test_the_mode_follows_the_umask(tmp_path, umask, writing):
    """Even where the writer makes a private file of its own."""
    before = os.umask(umask)
    try:
        with writing(tmp_path / "file") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


# A file that must not exist yet


@pytest.fixture(params=["links", "no links"], autouse=True)
def file_system(request, monkeypatch):
    """exFAT and some network folders cannot link."""

    def refuse(*args):
        raise PermissionError("Operation not permitted")

    if request.param == "no links":
        monkeypatch.setattr(atomic.os, "link", refuse)


def test_it_creates_a_file_and_its_folder(tmp_path):
    path = tmp_path / "new" / "file"
    with creating(path) as temporary:
        temporary.write_text("first")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]


def test_it_refuses_what_is_there_before_anything_is_written(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(FileExistsError, match=r"file exists already.*another name"):
        with creating(path):
            pytest.fail("the block ran")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_link_that_leads_nowhere_is_not_followed(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError, match="link exists already"), creating(link):
        pass
    assert link.is_symlink() and not (tmp_path / "elsewhere").exists()


def test_it_refuses_what_appeared_meanwhile(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(FileExistsError, match="file exists already"), creating(path) as temporary:
        temporary.write_text("mine")
        path.write_text("of another program")
    assert path.read_text() == "of another program" and list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="full"), creating(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError("disk full")
    assert not list(tmp_path.iterdir())


def test_of_many_writers_at_once_one_succeeds(tmp_path):
    """In threads of one process, so that the process number tells nobody apart."""
    path, together = tmp_path / "file", Barrier(8)

    def write(number):
        try:
            with creating(path) as temporary:
                temporary.write_text(str(number) * 1000)
                together.wait(timeout=30)
        except FileExistsError:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        (winner,) = [n for n in pool.map(write, range(8)) if n is not None]
    assert path.read_text() == str(winner) * 1000 and list(tmp_path.iterdir()) == [path]
