"""ComfyUI out of an archive: only the pinned bytes, only inside its folder; and existing trees."""

import hashlib
import tarfile

import pytest
from flexid.setup import comfyui, existing, pins
from flexid.setup.console import SetupError
from trees import TREE, archive, inside, make_tree

pytestmark = pytest.mark.pure


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_the_pinned_bytes_pass_and_stay(tmp_path):
    path = archive(tmp_path / "a.tar.gz", inside())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    comfyui.verify_digest(path, pins.Release("1", digest))
    assert path.exists()


def test_other_bytes_are_removed_and_named(tmp_path):
    path = archive(tmp_path / "a.tar.gz", inside())
    pinned = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes() + b"!")
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(SetupError, match=f"{got}, expected {pinned}.*again"):
        comfyui.verify_digest(path, pins.Release("1", pinned))
    assert not path.exists()


def test_a_digest_that_agrees_only_at_its_start_is_refused(tmp_path):
    path = archive(tmp_path / "a.tar.gz", inside())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    pinned = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    with pytest.raises(SetupError, match="expected"):
        comfyui.verify_digest(path, pins.Release("1", pinned))


def test_every_pinned_digest_is_whole():
    for release in pins.RELEASES.values():
        assert len(release.sha256) == 64 and int(release.sha256, 16)
        assert comfyui.requirement_line(release).strip().endswith(release.sha256)
    assert len({release.sha256 for release in pins.RELEASES.values()}) == len(pins.RELEASES)


def test_only_the_tree_is_extracted(tmp_path):
    path = archive(tmp_path / "a.tar.gz", inside())
    comfyui.extract_tree(path, tmp_path / "ComfyUI")
    files = {p.relative_to(tmp_path / "ComfyUI").as_posix() for p in tmp_path.rglob("*.py")}
    assert files == set(TREE)
    assert (tmp_path / "ComfyUI" / "comfy" / "sd.py").read_bytes() == b"4"


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("../evil", "outside"),
        ("/evil", "outside"),
        ("pkg-1/vendor/ComfyUI/../../../../evil", "outside"),
        ("pkg-1/vendor/ComfyUI/..", "outside"),
        ("pkg-1\\vendor\\ComfyUI\\..\\evil", "outside"),
        ("C:/evil", "outside"),
    ],
)
def test_a_member_that_leaves_its_folder_is_refused(tmp_path, name, fact):
    home = tmp_path / "deep" / "down"
    home.mkdir(parents=True)
    path = archive(home / "a.tar.gz", inside({name: b"x"}))
    with pytest.raises(SetupError, match=fact):
        comfyui.extract_tree(path, home / "ComfyUI")
    assert not list(tmp_path.rglob("evil"))
    assert not (home / "ComfyUI").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_special_files_are_refused(tmp_path, kind):
    name = "pkg-1/vendor/ComfyUI/models"
    path = archive(tmp_path / "a.tar.gz", inside({name: link(name, "/etc", kind)}))
    with pytest.raises(SetupError, match="link or special file"):
        comfyui.extract_tree(path, tmp_path / "ComfyUI")
    assert not (tmp_path / "ComfyUI").exists()


def test_an_archive_without_a_whole_tree_is_refused(tmp_path):
    path = archive(tmp_path / "a.tar.gz", {"pkg-1/vendor/ComfyUI/main.py": b"1"})
    with pytest.raises(SetupError, match=r"nodes\.py, execution\.py, comfy missing"):
        comfyui.extract_tree(path, tmp_path / "ComfyUI")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.gz"]


def test_what_an_interruption_left_is_replaced(tmp_path):
    (tmp_path / "ComfyUI.part" / "comfy").mkdir(parents=True)
    (tmp_path / "ComfyUI.part" / "half.py").write_text("")
    (tmp_path / "ComfyUI").mkdir()
    (tmp_path / "ComfyUI" / "old.py").write_text("")
    comfyui.extract_tree(archive(tmp_path / "a.tar.gz", inside()), tmp_path / "ComfyUI")
    assert not (tmp_path / "ComfyUI.part").exists()
    assert not (tmp_path / "ComfyUI" / "old.py").exists()
    assert not (tmp_path / "ComfyUI" / "half.py").exists()


def test_the_torch_lines_are_taken_out_and_no_others(tmp_path):
    lines = ["torch", "torchsde", "torchvision", "torchaudio==2", "numpy>=1.25.0", "#torch", ""]
    (tmp_path / "requirements.txt").write_text("\n".join(lines))
    kept = comfyui.requirements_without_torch(tmp_path).split()
    assert kept == ["torchsde", "numpy>=1.25.0", "#torch"]


def test_an_existing_tree_is_found_directly_and_in_the_portable_build(tmp_path):
    tree = make_tree(tmp_path / "ComfyUI")
    assert existing.find_tree(tree) == tree
    assert existing.find_tree(tmp_path) == tree


def test_a_folder_that_is_no_comfyui_says_what_is_missing(tmp_path):
    (tmp_path / "main.py").write_text("")
    with pytest.raises(SetupError, match=r"nodes\.py, execution\.py, comfy missing.*main\.py"):
        existing.find_tree(tmp_path)
    with pytest.raises(SetupError, match="no such folder"):
        existing.find_tree(tmp_path / "absent")


@pytest.mark.parametrize(
    "place", ["ComfyUI/venv/bin/python", ".venv/bin/python", "python_embeded/python.exe"]
)
def test_the_python_beside_a_tree_is_found(tmp_path, place):
    tree = make_tree(tmp_path / "ComfyUI")
    assert existing.find_python(tree) is None
    python = tmp_path / place
    python.parent.mkdir(parents=True)
    python.write_text("")
    assert existing.find_python(tree) == python


def test_a_link_to_the_python_is_not_followed(tmp_path):
    """A virtual environment's python is a link; its target would lack the packages."""
    tree = make_tree(tmp_path / "ComfyUI")
    python = tree / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (tmp_path / "python3").write_text("")
    python.symlink_to(tmp_path / "python3")
    assert existing.find_python(tree) == python
