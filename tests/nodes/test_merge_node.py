"""Merge Identity Adapters: from loaders to a new file, its report, and what stops it early."""

import comfy.model_management
import folder_paths
import ip_files
import pytest
import tiny
import torch
from flexid.mini.random_adapter import write_adapter
from flexid.model_patches.adapters.pulid_flux import load_adapter
from flexid.model_patches.inject.vfa import apply_vfa
from flexid.nodes import identity
from flexid.nodes.merge import FlexIDMergeAdapters as Node
from identities import identity_of
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.comfy

WIDGETS = {
    "method": "lerp",
    "weights": "",
    "name": "",
    "layers": "all",
    "paths": "all",
    "encoder": "equal",
    "normalise": True,
    "dtype": "auto",
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A ComfyUI with two files of one encoder in models/pulid."""
    folder = tmp_path / "models" / "pulid"
    folder.mkdir(parents=True)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "pulid", ([str(folder)], set()))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    tensors = load_file(write_adapter(folder / "a.safetensors", 1))
    trained = {
        k: t * 1.5 if k.startswith("pulid_ca.") and "to_out" in k else t for k, t in tensors.items()
    }
    save_file(trained, folder / "b.safetensors")
    return folder


def load(name):
    return identity.FlexIDLoadIdentityAdapter.execute(name)[0]


def run(*adapters, base=None, **changes):
    sockets = {f"adapter{number}": one for number, one in enumerate(adapters)}
    return Node.execute(sockets, **{**WIDGETS, **changes}, base=base)


def test_two_loaders_make_a_file_that_loads(home):
    a, b = load("a.safetensors"), load("b.safetensors")
    out = run(a, b, weights="0.5, 0.5")
    merged, report = out[0], out[1]
    assert merged.path == home / "lerp_a_b.safetensors" and merged.path.exists()
    key = "0.to_out.weight"
    expected = (0.5 * a.cross_attention[key].double() + 0.5 * b.cross_attention[key].double()).to(
        torch.bfloat16
    )
    assert torch.equal(merged.cross_attention[key], expected)
    assert merged.encoder_digest == a.encoder_digest and merged.digest != a.digest
    assert "lerp of 2 files" in report and "all out     50.00 % 1.0000" in report
    assert out.ui.as_dict()["text"] == (report,) and Node.define_schema().is_output_node
    assert "lerp_a_b.safetensors" in identity.ADAPTERS.labels()


def test_a_second_queue_opens_what_is_there(home):
    a, b = load("a.safetensors"), load("b.safetensors")
    first = run(a, b)[0]
    again = run(a, b)
    assert again[0].digest == first.digest and "already" in again[1]
    assert len(list(home.iterdir())) == 3


def test_task_arithmetic_by_its_base(home):
    a, b = load("a.safetensors"), load("b.safetensors")
    with pytest.raises(ValueError, match="task_arithmetic needs base"):
        run(b, method="task_arithmetic")
    out = run(b, method="task_arithmetic", weights="2", base=a, name="far")
    assert out[0].name == "far.safetensors" and "base: a.safetensors" in out[1]
    key = "1.to_out.weight"
    far = 2 * b.cross_attention[key].double() - a.cross_attention[key].double()
    assert torch.equal(out[0].cross_attention[key], far.to(torch.bfloat16))


def test_adapters_without_a_fitting_file(home):
    a = load("a.safetensors")
    with pytest.raises(ValueError, match=r"'tiny.safetensors' came from no file"):
        run(a, tiny.adapter())
    b = load("b.safetensors")
    b.path.unlink()
    write_adapter(home / "b.safetensors", 3)
    with pytest.raises(ValueError, match=r"b.safetensors .*different encoders|b.safetensors was"):
        run(a, b)
    with pytest.raises(ValueError, match=r"b.safetensors was changed after it was loaded"):
        run(a, b, encoder="first")


def test_files_for_sdxl_are_refused(home):
    tensors = ip_files.pulid_sdxl(ip_files.pulid_v1_shapes(48, 32, 24, 40), (64, 128), 40)
    ip_files.write(home / "sdxl.safetensors", tensors)
    sdxl = load("sdxl.safetensors")
    with pytest.raises(ValueError, match="is a PuLID file for SDXL; those for Flux"):
        run(load("a.safetensors"), sdxl)


def test_cancel_leaves_no_file(home, monkeypatch):
    def cancel():
        raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(load("a.safetensors"), load("b.safetensors"))
    assert sorted(one.name for one in home.iterdir()) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize(
    ("widgets", "message"),
    [
        ({"weights": "a"}, "weights are 'a'"),
        ({"layers": "x"}, "Cannot read 'x' in layers"),
        ({"paths": "kv"}, "Cannot read 'kv' in paths"),
    ],
)
def test_widgets_are_read_before_anything_runs(widgets, message):
    given = {"weights": "", "layers": "all", "paths": "all", "adapters": {}, **widgets}
    assert message in Node.validate_inputs(**given)
    assert Node.validate_inputs(**{**given, **dict.fromkeys(widgets)}) is True


def test_two_anchors_in_a_row_are_the_mix_at_run_time(home):
    """What the help page says: outputs add up, one-hot is the single file, one identity fits."""
    files = [load("a.safetensors"), load("b.safetensors")]
    tokens = torch.randn(1, 32, files[0].token_dim, generator=torch.Generator().manual_seed(5))
    person = identity_of({"pulid_flux": tokens}, encoder=files[0].encoder_digest)
    model = tiny.flux()

    def picture(*weights):
        patched = model
        for adapter, weight in zip(files, weights, strict=True):
            patched = apply_vfa(patched, adapter, person, weight=weight)
        return tiny.sample(patched)

    alone = tiny.sample(apply_vfa(model, files[1], person))
    assert torch.equal(picture(0.0, 1.0), alone)
    mixed, merged = picture(0.7, 0.3), run(*files, weights="0.7, 0.3", dtype="float32")[0]
    # These files differ in to_out alone, in which a layer is linear: here both mixes agree.
    one = tiny.sample(apply_vfa(model, load_adapter(merged.path), person))
    torch.testing.assert_close(mixed, one, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(mixed, alone, atol=1e-2)
