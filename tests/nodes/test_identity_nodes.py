"""Identity nodes: what their lists show, and one person from file to file."""

import inspect
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import folder_paths
import pytest
import torch
from flexid.mini.random_adapter import write_adapter, write_eva_clip
from flexid.model_patches.files.public_files import EVA02_CLIP_L_336, PULID_FLUX_091
from flexid.model_patches.identity.encode import encoder_runs, forget
from flexid.model_patches.identity.store import load_identity
from flexid.nodes import identity as nodes
from flexid.nodes.model_files import ModelFiles
from identities import identity_of
from people import face

pytestmark = pytest.mark.comfy

FOLDERS = ("pulid", "clip_vision", "text_encoders", "flexid")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A ComfyUI whose models, input, output and temp folders are empty."""
    for name in FOLDERS:
        (tmp_path / "models" / name).mkdir(parents=True)
        entry = ([str(tmp_path / "models" / name)], set())
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, entry)
    for kind in ("input", "output", "temp"):
        (tmp_path / kind).mkdir()
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return write_adapter(folder / "pulid.safetensors"), write_eva_clip(folder / "eva.safetensors")


@pytest.fixture
def loaded(home, files):
    shutil.copy(files[0], home / "models/pulid/pulid.safetensors")
    shutil.copy(files[1], home / "models/clip_vision/eva.safetensors")
    adapter = nodes.FlexIDLoadIdentityAdapter.execute("pulid.safetensors")[0]
    return adapter, nodes.FlexIDLoadEvaClip.execute("eva.safetensors")[0]


def first_option(node):
    return node.define_schema().inputs[0].options[0]


def test_a_new_loader_has_the_file_that_fits_whatever_its_name(home, files):
    for place in ("models/pulid", "models/clip_vision"):
        shutil.copy(files[0], home / place / "zz.safetensors")
        shutil.copy(files[1], home / place / "yy.safetensors")
        (home / place / "flux_eva.safetensors").write_bytes(b"not a model")
    assert first_option(nodes.FlexIDLoadIdentityAdapter) == "zz.safetensors"
    assert first_option(nodes.FlexIDLoadEvaClip) == "yy.safetensors"


def test_a_new_load_identity_has_an_identity(home, loaded):
    (home / "output/identities").mkdir()
    (home / "output/identities/a.safetensors").write_bytes(b"not an identity")
    identity = _encode(loaded, 1)[0]
    saved = nodes.FlexIDSaveIdentity.execute(identity, "zoe", True)
    assert "zoe" in saved.ui["text"][0]
    assert "zoe" in first_option(nodes.FlexIDLoadIdentity)


def _encode(loaded, *seeds):
    faces = tuple(face(seed) for seed in seeds)
    return nodes.FlexIDEncodeIdentity.execute(*loaded, faces, "mean", "auto", True)


def _options(node):
    return node.define_schema().inputs[0].options


@pytest.mark.parametrize("node", nodes.NODES)
def test_schema(node):
    schema = node.define_schema()
    schema.validate()
    names = [i.id for i in schema.inputs]
    arguments = inspect.signature(node.execute).parameters.values()
    # `**more` takes links to sockets that are not in the schema, to refuse them.
    assert names == [one.name for one in arguments if one.kind is not one.VAR_KEYWORD]
    assert schema.node_id == node.__name__ and schema.node_id.startswith("FlexID")
    assert schema.category.startswith("FlexID/") and "FlexID" not in schema.display_name
    assert schema.description and schema.search_aliases
    assert all(i.tooltip for i in schema.inputs)
    assert node.GET_NODE_INFO_V1()["input"]


@pytest.mark.parametrize(
    ("node", "row"),
    [
        (nodes.FlexIDLoadIdentityAdapter, PULID_FLUX_091),
        (nodes.FlexIDLoadEvaClip, EVA02_CLIP_L_336),
    ],
)
def test_empty_list_says_what_to_put_where(node, row):
    (only,) = _options(node)
    for fact in (row.file, f"models/{row.folder}", row.url, "press R"):
        assert fact in only
    with pytest.raises(FileNotFoundError) as error:
        node.execute(only)
    assert row.file in str(error.value) and row.url in str(error.value)
    with pytest.raises(FileNotFoundError, match="'x.pt' is not among the 0 files"):
        node.execute("x.pt")


def test_no_identities_says_what_to_do():
    (only,) = _options(nodes.FlexIDLoadIdentity)
    assert "Save Identity" in only and "models/flexid/identities" in only
    with pytest.raises(FileNotFoundError, match="Save Identity"):
        nodes.FlexIDLoadIdentity.execute(only)


def test_lists_show_plain_names_favourites_first(home, files):
    for name in ("a_sdxl.safetensors", "pulid_flux.safetensors", "readme.md"):
        (home / "models/pulid" / name).write_bytes(b"x")
    assert _options(nodes.FlexIDLoadIdentityAdapter) == [
        "pulid_flux.safetensors",
        "a_sdxl.safetensors",
    ]


def test_same_name_in_two_folders_resolves_to_each(home, files):
    shutil.copy(files[1], home / "models/clip_vision/eva.safetensors")
    write_eva_clip(home / "models/text_encoders/eva.safetensors", seed=9)
    first, second = _options(nodes.FlexIDLoadEvaClip)
    assert (first, second) == ("eva.safetensors", "eva.safetensors [text_encoders]")
    digests = [nodes.FlexIDLoadEvaClip.execute(label)[0].digest for label in (first, second)]
    assert digests[0] != digests[1]


def test_a_folder_reached_under_two_names_is_listed_once(home, files, monkeypatch):
    shutil.copy(files[1], home / "models/clip_vision/eva.safetensors")
    shared = folder_paths.folder_names_and_paths["clip_vision"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "text_encoders", shared)
    assert _options(nodes.FlexIDLoadEvaClip) == ["eva.safetensors"]


def test_labels_cannot_leave_the_folders(home):
    (home / "models/secret.safetensors").write_bytes(b"x")
    files = ModelFiles(("pulid",), (".safetensors",), "flux", PULID_FLUX_091, ("pulid_flux",))
    with pytest.raises(FileNotFoundError, match="not among"):
        files.path("../secret.safetensors")
    for label in ("../secret.safetensors [output]", "../secret.safetensors"):
        with pytest.raises(FileNotFoundError, match="not among the saved identities"):
            nodes.FlexIDLoadIdentity.execute(label)


def test_fingerprint_follows_the_content(home, loaded):
    before = nodes.FlexIDLoadIdentityAdapter.fingerprint_inputs("pulid.safetensors")
    assert before == nodes.FlexIDLoadIdentityAdapter.fingerprint_inputs("pulid.safetensors")
    write_adapter(home / "models/pulid/pulid.safetensors", seed=4)
    assert nodes.FlexIDLoadIdentityAdapter.fingerprint_inputs("pulid.safetensors") != before


def test_encode_shows_thumbnail_and_report(home, loaded):
    output = _encode(loaded, 1, 2)
    identity, thumbnail, report = output[0], output[1], output[2]
    assert identity.encodings["pulid_flux"].tokens.shape == (1, 32, 256)
    assert thumbnail.shape == (1, 256, 256, 3) and thumbnail.dtype == torch.float32
    assert "2 faces of 2 photos" in report
    assert output.ui["text"] == (report,)
    (preview,) = output.ui["images"]
    assert (home / "temp" / preview["filename"]).is_file()


def test_executing_again_runs_no_encoder(loaded):
    forget()
    first = _encode(loaded, 1)[0]
    before = encoder_runs()
    again = _encode(loaded, 1)[0]
    after = encoder_runs()
    assert (after.vision.runs, after.tokens.runs) == (before.vision.runs, before.tokens.runs)
    assert torch.equal(first.encodings["pulid_flux"].tokens, again.encodings["pulid_flux"].tokens)


def test_combine_takes_the_autogrow_dictionary(loaded):
    parts = {f"identity{i}": _encode(loaded, i)[0] for i in range(3)}
    output = nodes.FlexIDCombineIdentities.execute(parts, "mean", "1, 0, 0")
    expected = parts["identity0"].encodings["pulid_flux"].tokens
    torch.testing.assert_close(output[0].encodings["pulid_flux"].tokens, expected)
    assert output[1].shape == (1, 256, 768, 3)
    assert "identity 2: share 0%" in output[2] == output.ui["text"][0]


def test_save_and_load(home, loaded):
    identity = _encode(loaded, 1)[0]
    output = nodes.FlexIDSaveIdentity.execute(identity, "family/ann", True)
    assert output[0] is identity
    path = home / "output/identities/family/ann_00001_.safetensors"
    assert path.is_file()
    (label,) = _options(nodes.FlexIDLoadIdentity)
    assert label == "identities/family/ann_00001_.safetensors [output]"
    assert output.ui["text"] == (f"Saved {label}",)
    back, thumbnail = nodes.FlexIDLoadIdentity.execute(label)[:2]
    assert torch.equal(back.encodings["pulid_flux"].tokens, identity.encodings["pulid_flux"].tokens)
    assert torch.equal(thumbnail, identity.picture)
    assert back.provenance == identity.provenance


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("ann", "ann"),
        ("bob/", "bob"),
        ("family/bob/", "family/bob"),
        ("./bob", "bob"),
        ("", "person"),
        (" ", "person"),
        ("family/..", "person"),
        ("born_%year%/", f"born_{time.localtime().tm_year}"),
        ("%year%/ann", f"{time.localtime().tm_year}/ann"),
    ],
)
def test_saving_never_overwrites(home, prefix, name):
    for value in (1.0, 2.0, 3.0):
        identity = identity_of({"a": torch.full((1, 2, 3), value)})
        nodes.FlexIDSaveIdentity.execute(identity, prefix, False)
    folder = home / "output/identities"
    saved = sorted(path for path in folder.rglob("*") if path.is_file())
    assert saved == [folder / f"{name}_{number:05}_.safetensors" for number in (1, 2, 3)]
    tokens = [load_identity(path).encodings["a"].tokens[0, 0, 0].item() for path in saved]
    assert tokens == [1.0, 2.0, 3.0]


def test_numbers_go_on_after_a_gap(home):
    for _ in range(3):
        nodes.FlexIDSaveIdentity.execute(identity_of({"a": torch.ones(1, 2, 3)}), "bob/", False)
    (home / "output/identities/bob_00001_.safetensors").unlink()
    nodes.FlexIDSaveIdentity.execute(identity_of({"a": torch.ones(1, 2, 3)}), "bob/", False)
    names = sorted(p.name for p in (home / "output/identities").iterdir())
    assert names == [f"bob_{number:05}_.safetensors" for number in (2, 3, 4)]


def test_servers_that_save_at_once_keep_all_files(home, monkeypatch):
    """All of them read the folder before any of them writes."""
    together = Barrier(4)
    number = folder_paths.get_save_image_path

    def number_together(*args):
        found = number(*args)
        together.wait(timeout=30)
        return found

    def save(value):
        identity = identity_of({"a": torch.full((1, 2, 3), float(value))})
        return nodes.FlexIDSaveIdentity.execute(identity, "ann", False).ui["text"]

    monkeypatch.setattr(folder_paths, "get_save_image_path", number_together)
    (home / "output/identities").mkdir()
    with ThreadPoolExecutor(4) as pool:
        told = {text for (text,) in pool.map(save, range(4))}
    saved = sorted((home / "output/identities").iterdir())
    assert {f"Saved identities/{path.name} [output]" for path in saved} == told
    tokens = {load_identity(path).encodings["a"].tokens[0, 0, 0].item() for path in saved}
    assert len(saved) == 4 and tokens == {0.0, 1.0, 2.0, 3.0}


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_a_saved_identity_has_the_mode_of_the_umask(home):
    before = os.umask(0o027)
    try:
        nodes.FlexIDSaveIdentity.execute(identity_of({"a": torch.ones(1, 2, 3)}), "ann", True)
    finally:
        os.umask(before)
    (path,) = (home / "output/identities").iterdir()
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("prefix", ["../../ann", "../ann", "/ann", "a/../../ann", "../ann/"])
def test_saving_stays_inside_the_output_folder(home, prefix):
    with pytest.raises(Exception, match="outside the output folder"):
        nodes.FlexIDSaveIdentity.execute(identity_of({"a": torch.ones(1, 2, 3)}), prefix, True)
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_identities_are_listed_from_three_places(home, loaded):
    nodes.FlexIDSaveIdentity.execute(_encode(loaded, 1)[0], "ann", False)
    saved = home / "output/identities/ann_00001_.safetensors"
    for folder in ("input/identities", "models/flexid/identities"):
        (home / folder).mkdir(parents=True)
        shutil.copy(saved, home / folder / "bob.safetensors")
    shutil.copy(saved, home / "models/flexid/other_model.safetensors")
    labels = _options(nodes.FlexIDLoadIdentity)
    assert labels == [
        "identities/bob.safetensors",
        "identities/ann_00001_.safetensors [output]",
        "identities/bob.safetensors [input]",
    ]
    for label in labels:
        assert (
            nodes.FlexIDLoadIdentity.execute(label)[0].encodings["pulid_flux"].tokens.shape[1] == 32
        )


def test_replaced_identity_file_is_noticed(home, loaded):
    nodes.FlexIDSaveIdentity.execute(_encode(loaded, 1)[0], "ann", False)
    (label,) = _options(nodes.FlexIDLoadIdentity)
    before = nodes.FlexIDLoadIdentity.fingerprint_inputs(label)
    nodes.FlexIDSaveIdentity.execute(_encode(loaded, 2)[0], "ann", False)
    folder = home / "output/identities"
    (folder / "ann_00002_.safetensors").replace(folder / "ann_00001_.safetensors")
    assert nodes.FlexIDLoadIdentity.fingerprint_inputs(label) != before


def test_deleted_identity_says_so(home):
    with pytest.raises(
        FileNotFoundError, match="gone.safetensors.* not among the saved identities"
    ):
        nodes.FlexIDLoadIdentity.execute("identities/gone.safetensors [output]")
