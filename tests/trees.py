"""The least that counts as a ComfyUI tree, in a folder and in an archive."""

import io
import tarfile

TREE = {"main.py": b"1", "nodes.py": b"2", "execution.py": b"3", "comfy/sd.py": b"4"}


def archive(path, members):
    """A tar.gz of (name, content) files; a TarInfo instead of content is added as it is."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def inside(extra=None):
    members = {f"pkg-1/vendor/ComfyUI/{name}": content for name, content in TREE.items()}
    return members | {"pkg-1/setup.py": b"never written"} | (extra or {})


def make_tree(folder):
    for name, content in TREE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
