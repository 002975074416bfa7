"""A file of one kind in the loader of another: the error names the file and the node it is for."""

import pytest
import torch
from flexid.mini import random_faceclip, random_text
from flexid.mini.random_adapter import write_adapter, write_eva_clip
from flexid.model_patches.adapters.pulid_flux import load_adapter
from flexid.model_patches.encoders.eva_clip import load_eva_clip
from flexid.model_patches.encoders.faceclip import load_faceclip
from flexid.model_patches.encoders.faceclip_convert import convert_faceclip
from flexid.model_patches.identity.store import load_identity, save_identity
from identities import identity_of
from safetensors.torch import save_file

pytestmark = pytest.mark.comfy

LOADERS = {
    "identity adapter": (load_adapter, "pulid_flux_v0.9.1.safetensors"),
    "EVA-CLIP": (load_eva_clip, "EVA02_CLIP_L_336"),
    "identity": (load_identity, "Save Identity"),
    "SIP": (load_faceclip, "face_t5_encoder.pt (Flux)"),
}

ADAPTER, EVA = "Load Identity Adapter", "Load EVA-CLIP"
IDENTITY, PROJECTOR = "Load Identity node", "Load SIP Projector"
FILES = {
    # file: (what it is, the node that opens it, the loader of LOADERS that does)
    "face_t5.pt": ("FaceT5, FaceCLIP's encoder and fuser for Flux. ", PROJECTOR, "SIP"),
    "face_clip.pt": ("FaceCLIP, the encoders and fusers for SDXL and SD", PROJECTOR, "SIP"),
    "t5.safetensors": ("for Flux, converted by the Convert FaceCLIP node", PROJECTOR, "SIP"),
    "clip.safetensors": ("SD 1.5, converted by the Convert FaceCLIP node", PROJECTOR, "SIP"),
    "pulid.safetensors": ("a PuLID adapter for Flux", ADAPTER, "identity adapter"),
    "eva.safetensors": ("an EVA02-CLIP vision tower", EVA, "EVA-CLIP"),
    "person.safetensors": ("an identity saved by FlexID", IDENTITY, "identity"),
    "clip_l.safetensors": ("a text encoder", "Load CLIP node", None),
    "redux.safetensors": ("a style model (FLUX.1 Redux)", "Load Style Model", None),
    "flux.safetensors": ("a Flux base model", "Load Diffusion Model", None),
    "lora.safetensors": ("a LoRA", "Load LoRA", None),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    random_faceclip.write_face_t5(folder / "face_t5.pt", 1)
    random_faceclip.write_face_clip(folder / "face_clip.pt", 2)
    convert_faceclip(folder / "face_t5.pt", folder / "t5.safetensors")
    convert_faceclip(folder / "face_clip.pt", folder / "clip.safetensors")
    write_adapter(folder / "pulid.safetensors")
    write_eva_clip(folder / "eva.safetensors")
    person = identity_of({"pulid_flux": torch.ones(1, 4, 8)})
    save_identity(person, folder / "person.safetensors")
    random_text.write_clip_l(folder / "clip_l.safetensors", 3)
    for name, key in (
        ("redux", "redux_up.weight"),
        ("flux", "double_blocks.0.img_attn.qkv.weight"),
        ("lora", "lora_unet_double_blocks_0_img_attn_proj.lora_up.weight"),
    ):
        save_file({key: torch.zeros(2, 2)}, folder / f"{name}.safetensors")
    return folder


CASES = [(name, loader) for name in FILES for loader in LOADERS if FILES[name][2] != loader]


@pytest.mark.parametrize(("name", "loader"), CASES)
def test_the_error_names_the_file_its_node_and_what_is_needed(folder, name, loader):
    load, wanted = LOADERS[loader]
    what, node, _ = FILES[name]
    with pytest.raises(ValueError) as error:
        load(folder / name)
    said = str(error.value)
    assert said.startswith(f"{name} is ") and what in said, said
    assert node in said and wanted in said, said


@pytest.mark.parametrize("name", [name for name, row in FILES.items() if row[2]])
def test_its_own_loader_opens_it(folder, name):
    assert LOADERS[FILES[name][2]][0](folder / name) is not None
