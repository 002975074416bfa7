"""Every combo that lists files or folders: its value is checked again against its own list.

Core's switch and primitive nodes send any string past the combo's check. Which combos list files
is found out by putting files into all folders of ComfyUI and looking which lists grow, so that a
new combo is tested without being named here.
"""

import os

import folder_paths
import pytest
from comfy_api.latest import io
from flexid.nodes import NODES
from schemas import FILE_COMBOS

pytestmark = pytest.mark.comfy

ENDINGS = ("safetensors", "onnx", "json", "png")
BELOW = ("", "identities", "dictionaries", "alignments", "models/planted")
FOREIGN = ["foreign", *(f"foreign/secret.{ending}" for ending in ENDINGS)]
SUFFIXES = ("", " [input]", " [output]")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A ComfyUI with empty folders, and a folder beside them that is nobody's business."""
    known = folder_paths.folder_names_and_paths
    table = {
        name: ([str(tmp_path / "models" / name)], endings) for name, (_, endings) in known.items()
    }
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", table)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    for kind in ("input", "output", "temp"):
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    for folder in bases(tmp_path):
        folder.mkdir(parents=True, exist_ok=True)
    write_files(tmp_path / "foreign", "secret", b"private")
    return tmp_path


def bases(home):
    models = [home / "models" / name for name in folder_paths.folder_names_and_paths]
    return [*models, home / "input", home / "output", home / "temp"]


def write_files(folder, stem, content):
    folder.mkdir(parents=True, exist_ok=True)
    for ending in ENDINGS:
        (folder / f"{stem}.{ending}").write_bytes(content)


def plant(home, content=b"planted"):
    for base in bases(home):
        for below in BELOW:
            write_files(base / below, "planted", content)
    folder_paths.filename_list_cache.clear()


def combos():
    """{(node, input id): options} of every combo."""
    return {
        (node, one.id): list(one.options)
        for node in NODES
        for one in node.define_schema().inputs
        if isinstance(one, io.Combo.Input)
    }


def file_combos(home):
    """{(node, input id): the labels of planted files}."""
    empty = combos()
    plant(home)
    return {
        key: [label for label in options if label not in empty[key]]
        for key, options in combos().items()
        if options != empty[key]
    }


def arguments(node):
    """The node's inputs as they are when it is new."""
    given = {}
    for one in node.define_schema().inputs:
        if not one.optional:
            options = getattr(one, "options", None)
            given[one.id] = getattr(one, "default", None) or (options[0] if options else None)
    return given


def readers(node):
    """What reads the value: execute, and the fingerprint where the node has one."""
    own = [node.fingerprint_inputs] if "fingerprint_inputs" in vars(node) else []
    return [node.execute, *own]


VALUES = {
    "absolute": lambda home: [f"{home / name}{end}" for name in FOREIGN for end in SUFFIXES],
    "parent": lambda home: [
        f"{'../' * up}{name}{end}" for up in range(1, 4) for name in FOREIGN for end in SUFFIXES
    ],
    "dot": lambda home: [".", "..", "./", "./planted", "./planted.safetensors", ". [input]"],
    "empty": lambda home: ["", " ", " [input]", "[output]"],
    "unknown": lambda home: [f"unknown{end}" for end in (*SUFFIXES, ".json", ".safetensors")],
}


def test_all_combos_with_files_are_found(home):
    assert {name for _, name in file_combos(home)} == FILE_COMBOS


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_that_is_not_listed_is_refused(home, kind):
    for node, name in file_combos(home):
        given = arguments(node)
        for value in VALUES[kind](home):
            for read in readers(node):
                with pytest.raises(FileNotFoundError) as caught:
                    read(**{**given, name: value})
                said = str(caught.value)
                where = f"{node.__name__}.{read.__name__}, {name}={value!r}: {said}"
                assert f"{value!r} is not among the" in said, where
                assert "secret" not in said.replace(repr(value), ""), where


def test_a_swapped_file_of_the_same_size_and_time_is_noticed(home):
    """Copying tools keep the time; a converted or retrained file often keeps the size."""
    found = {key: labels for key, labels in file_combos(home).items() if len(readers(key[0])) > 1}

    def fingerprints(content):
        plant(home, content)
        for path in home.rglob("planted.*"):
            os.utime(path, (1e9, 1e9))
        return {
            (node.__name__, name, label): repr(
                node.fingerprint_inputs(**{**arguments(node), name: label})
            )
            for (node, name), labels in found.items()
            for label in labels
        }

    before, again, after = (fingerprints(content) for content in (b"one", b"one", b"two"))
    assert before == again and {"planted", "planted.safetensors"} <= {key[2] for key in before}
    assert not [key for key in before if before[key] == after[key]]


def test_a_file_that_went_is_named_and_not_a_raw_error(home):
    """The page still shows it; ComfyUI logs what the fingerprint says, and runs the node."""
    found = file_combos(home)
    saved = {node: arguments(node) for node, _ in found}
    for path in home.glob("[!f]*/**/planted.*"):
        path.unlink()
    folder_paths.filename_list_cache.clear()
    for (node, name), labels in found.items():
        for read in readers(node):
            with pytest.raises(FileNotFoundError, match="is not among the"):
                read(**{**saved[node], name: labels[0]})
