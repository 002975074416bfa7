"""README's table of models says what the nodes do."""

import re

import dynamicid_world
import flexip_world
import pulid_world
import pytest
import tiny
import tiny_edit
import tiny_unet
from flexid.mini.random_flexip import write_flexip
from flexid.model_patches.adapters.flexip_file import load_flexip
from flexid.model_patches.inject.flexip import apply_flexip
from flexid.model_patches.inject.guidance.apply import apply_reference_guidance
from flexid.model_patches.inject.saa import apply_saa
from flexid.model_patches.inject.saa_people import make_person
from flexid.model_patches.inject.vfa import apply_vfa
from pack import ROOT

pytestmark = pytest.mark.comfy

MODELS = {
    "Flux.1 dev, schnell, Krea, Fill": tiny.flux,
    "Flux.1 Kontext": tiny.flux,
    "SD 1.5": tiny_unet.sd15,
    "SDXL": tiny_unet.sdxl,
    "FLUX.2": tiny_edit.KINDS["flux2"].model,
    "Qwen-Image-Edit": tiny_edit.KINDS["qwen"].model,
    "Krea 2": tiny_edit.KINDS["krea2"].model,
    "OmniGen2": tiny_edit.KINDS["omnigen2"].model,
    "Z-Image": tiny_edit.UNTESTED["z-image"].model,
    "Chroma": tiny_edit.UNTESTED["chroma"].model,
}


def table():
    """Model -> what each node says of it, by the node's name."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## What it works with")[1]
    rows = re.findall(r"^\|(.+)\|$", text.split("\n## ")[0], re.MULTILINE)
    head, _, *body = ([cell.strip() for cell in row.split("|")] for row in rows)
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in body}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Node -> what it does to a model, with each kind of file that it takes."""
    folder, sdxl = tmp_path_factory.mktemp("files"), tiny_unet.sdxl()
    pulid = pulid_world.sdxl_adapter(folder, sdxl)
    faces = [(tiny.adapter(), tiny.identity()), (pulid, pulid_world.somebody(pulid))]
    public = [flexip_world.ip_adapter(folder, model) for model in (tiny_unet.sd15(), sdxl)]

    def vfa(model, number):
        return apply_vfa(model, *faces[number])

    write_flexip(folder / "flux.safetensors", text=tiny.CONTEXT)
    for_flux = load_flexip(folder / "flux.safetensors")

    def flexip(model, number):
        if number and type(model.model).__name__ == "Flux":
            prompt, person = tiny.conditioning(1), flexip_world.person(for_flux, pooled=512 + 768)
            return apply_flexip(model, prompt, prompt, for_flux, person)
        prompt = (tiny_unet.conditioning_xl if number else tiny_unet.conditioning)(1)
        adapter = public[number]
        return apply_flexip(model, prompt, prompt, adapter, flexip_world.person(adapter))

    dynamicid = dynamicid_world.adapter(folder, tiny_unet.sd15())
    identities = [(dynamicid, dynamicid_world.person(dynamicid)), faces[0]]

    def saa(model, number):
        adapter, identity = identities[number]
        return apply_saa(model, adapter, [make_person(identity)])

    def guidance(model, number):
        method = ("two predictions", "attention")[number]
        prompt = tiny.conditioning(1)
        return apply_reference_guidance(model, prompt, weight=0.5, method=method)

    return {
        "Apply VFA": vfa,
        "Apply FlexIP": flexip,
        "Apply SAA": saa,
        "Apply Reference Guidance": guidance,
    }


def outcome(apply, model, number):
    """What the node returns, or the message of its refusal."""
    try:
        return apply(model, number)
    except ValueError as error:
        return str(error)


def test_every_row_is_tested():
    assert table().keys() == MODELS.keys()


@pytest.mark.parametrize("name", MODELS)
def test_what_the_table_says_is_what_happens(nodes, name):
    model = MODELS[name]()
    kind = type(model.model).__name__
    for node, said in table()[name].items():
        found = [outcome(nodes[node], model, number) for number in (0, 1)]
        refusals = [one for one in found if isinstance(one, str)]
        if said.startswith("refused"):
            assert len(refusals) == 2, (node, said)
            # A UNet of another layout is told by its number of blocks.
            assert any(kind in one or "this model has" in one for one in refusals), refusals
        elif node == "Apply Reference Guidance":
            assert len(refusals) == ("`two predictions` only" in said), refusals
            report = found[0].report
            assert ("has not been tested" in report) == ("not tested" in said)
        else:
            assert said.startswith("yes") and len(refusals) == 1, (node, refusals)


def test_a_run_without_references_ends_before_the_first_step(nodes):
    said = table()["Flux.1 dev, schnell, Krea, Fill"]["Apply Reference Guidance"]
    assert said.startswith("an error when the run begins")
    guided = nodes["Apply Reference Guidance"](tiny.flux(), 0)
    with pytest.raises(RuntimeError, match="0 of the run's 2 prompts carry a reference"):
        tiny.sample(guided.model, positive=guided.conditioning)
