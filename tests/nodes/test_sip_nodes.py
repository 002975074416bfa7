"""SIP nodes: from files and a face to a prompt that leans; what is refused; their help pages."""

import asyncio
import inspect
import re

import comfy.sd
import folder_paths
import people
import pytest
import sip_sources
import tiny
import torch
from flexid.mini import random_faceclip, random_text
from flexid.model_patches.face.align import FFHQ_512
from flexid.model_patches.gates.gate import Gate
from flexid.model_patches.gates.window import Window
from flexid.model_patches.sip.attribute_bank import all_groups
from flexid.nodes import sip as nodes
from flexid.nodes.sip_sources import FUSERS
from identities import identity_of
from pack import ROOT

pytestmark = pytest.mark.comfy

SOURCE = sip_sources.Fixed()
WIDGETS = {"alpha": 0.1, "scope": "auto", "norm": "token"}
each_node = pytest.mark.parametrize("node", nodes.NODES, ids=lambda node: node.__name__)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A ComfyUI with an empty models/flexid."""
    folder = tmp_path / "models" / "flexid"
    folder.mkdir(parents=True)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "flexid", ([str(folder)], set()))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return folder


def face(seed=0):
    return people.face(seed, points=torch.tensor(FFHQ_512, dtype=torch.float32))


def apply(**changes):
    given = {
        "conditioning": tiny.conditioning(10),
        "projector": SOURCE,
        "identity": sip_sources.person(),
        **WIDGETS,
        **changes,
    }
    return nodes.FlexIDApplySIP.execute(**given)


# Schemas


@each_node
def test_schema(node):
    schema = node.define_schema()
    assert schema.node_id == node.__name__ and schema.node_id.startswith("FlexID")
    assert schema.category.startswith("FlexID/") and schema.search_aliases
    assert schema.display_name.split()[0] in {"Load", "Convert", "Align", "Make", "Encode", "Apply"}
    for one in schema.inputs:
        assert one.tooltip, one.id
        if one.get_io_type() in ("FLOAT", "INT"):
            assert re.search(r"(?<![.\d])0(?![.\d]*\d)", one.tooltip), one.tooltip
    outputs = {out.id for out in schema.outputs} & {one.id for one in schema.inputs}
    assert not outputs


@each_node
@pytest.mark.parametrize("language", ["en", "zh"])
def test_help_page_explains_every_input(node, language):
    docs = ROOT / "web" / "docs"
    path = docs / f"{node.__name__}.md"
    if language == "zh":
        path = docs / node.__name__ / "zh.md"
    page = path.read_text(encoding="utf-8")
    for one in node.define_schema().inputs:
        assert f"`{one.id}`" in page, one.id
    headings = {
        "en": ["## Inputs", "## Outputs", "## When it fails"],
        "zh": ["## 输入", "## 输出", "## 出错时"],
    }
    for heading in headings[language]:
        assert f"\n{heading}\n" in page
    if language == "en":
        assert page.splitlines()[0] == f"# {node.define_schema().display_name}"
    other = (docs / f"{node.__name__}.md").read_text(encoding="utf-8")
    for mark in ("\n## ", "\n|", "\n- ", "](http"):
        assert page.count(mark) == other.count(mark), mark


def test_sensitive_groups_are_off_and_every_group_is_a_switch():
    schema = nodes.sip_sources.FlexIDMakeAttributeProjector.define_schema()
    switches = {one.id: one for one in schema.inputs if one.get_io_type() == "BOOLEAN"}
    assert list(switches) == [group.id for group in all_groups()]
    for group in all_groups():
        assert switches[group.id].default is not group.sensitive
        assert ("Sensitive" in switches[group.id].tooltip) == group.sensitive


# From file to prompt


def test_from_faceclip_file_to_prompt(home):
    random_faceclip.write_face_t5(home / "face_t5_encoder.pt", 1)
    assert FUSERS.labels() == ["face_t5_encoder.pt"]
    load = nodes.sip_sources.FlexIDLoadSIPProjector
    projector = load.execute("face_t5_encoder.pt", "difference")[0]
    identity = nodes.FlexIDEncodeSIPIdentity.execute(projector, (face(),))[0]
    prompt = tiny.conditioning(10)
    out = apply(conditioning=prompt, projector=projector, identity=identity, scope="all")
    turned = (out[0][0][0] - prompt[0][0]).norm(dim=-1) / prompt[0][0].norm(dim=-1)
    torch.testing.assert_close(turned, torch.full_like(turned, 0.1), atol=1e-4, rtol=0)
    assert out[1] is None and "median |E|" in out[2]
    assert out.ui.as_dict()["text"] == (out[2],)
    again = load.fingerprint_inputs("face_t5_encoder.pt", "difference")
    assert again != load.fingerprint_inputs("face_t5_encoder.pt", "literal")


def test_convert_writes_a_file_that_loads(home):
    random_faceclip.write_face_clip(home / "face_clip_encoder.pt", 1)
    convert = nodes.sip_sources.FlexIDConvertFaceCLIP
    written = convert.execute("face_clip_encoder.pt", "")[0]
    assert written == "face_clip_encoder_flexid.safetensors" and (home / written).is_file()
    named = convert.execute("face_clip_encoder.pt", "../../elsewhere/mine")[0]
    assert named == "mine.safetensors" and (home / named).is_file()
    folder_paths.filename_list_cache.clear()
    load = nodes.sip_sources.FlexIDLoadSIPProjector
    assert load.execute(named, "literal")[0].family == "faceclip"


def test_convert_never_overwrites(home):
    """Neither what it wrote before, nor its own source, nor another file of the user."""
    random_faceclip.write_face_t5(home / "face_t5_encoder.pt", 1)
    convert = nodes.sip_sources.FlexIDConvertFaceCLIP
    convert.execute("face_t5_encoder.pt", "mine")
    folder_paths.filename_list_cache.clear()
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    for source, name, why in (
        ("face_t5_encoder.pt", "mine", "exists already"),
        ("mine.safetensors", "mine", "the file mine.safetensors that is converted"),
        ("mine.safetensors", "../flexid/mine ", "the file mine.safetensors that is converted"),
    ):
        with pytest.raises((FileExistsError, ValueError), match=f"{why}.*Choose another name"):
            convert.execute(source, name)
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


def test_align_keeps_its_file_below_models(home):
    random_faceclip.write_face_t5(home / "face_t5_encoder.pt", 1)
    random_text.write_t5(home / "t5.safetensors", 2)
    random_text.write_clip_l(home / "clip_l.safetensors", 3)
    from flexid.model_patches.encoders.mini_text import load_mini_clip

    clip = load_mini_clip(home / "t5.safetensors", home / "clip_l.safetensors")
    load = nodes.sip_sources.FlexIDLoadSIPProjector
    projector = load.execute("face_t5_encoder.pt", "difference")[0]
    align = nodes.sip_sources.FlexIDAlignSIPProjector
    aligned, report = align.execute(projector, clip, 10).args
    assert "fitted on 10 prompts" in report and aligned.alignment
    assert len(list((home / "alignments").glob("*.safetensors"))) == 1


def test_a_gate_returns_a_model_that_follows(home):
    model = tiny.flux()
    gate = Gate((Window(points=((0.0, 1.0), (1.0, 0.0))),))
    out = apply(model=model, gate=gate)
    assert out[1] is not model and out[0][0][0].equal(tiny.conditioning(10)[0][0])
    assert not torch.equal(tiny.sample(out[1], positive=out[0]), tiny.sample(model))


def test_asynchronous_run_through_comfyuis_own_call():
    """ComfyUI calls EXECUTE_NORMALIZED with the widgets as keywords."""
    node = nodes.FlexIDApplySIP
    given = {
        "conditioning": tiny.conditioning(10),
        "projector": SOURCE,
        "identity": sip_sources.person(),
        **WIDGETS,
    }
    out = node.EXECUTE_NORMALIZED(**given)
    out = asyncio.run(out) if inspect.isawaitable(out) else out
    assert out.result[2].startswith("fixed source")


# Bad input


class _Words:
    """A CLIP whose tokens are of a stream nobody knows."""

    def tokenize(self, text, return_word_ids=False):
        return {"qwen": [[(1, 1.0, 1)]]}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip_l.safetensors"
    random_text.write_clip_l(path, 1)
    options = {"model_config": dict(random_text.CLIP_CONFIG)}
    return comfy.sd.load_clip([str(path)], model_options=options)


def _nan_source():
    return sip_sources.Fixed(gain=float("nan"), digest="nan")


class _Short(sip_sources.Fixed):
    def direction(self, tokens, prompt):
        found = super().direction(tokens, prompt)
        return type(found)(found.vectors[:, :-1], ())


def _text(*shape):
    return [[torch.randn(*shape), {}]]


BAD = {
    "no prompt": ({"conditioning": []}, ["0 prompts", "text encode"]),
    "text without tokens": ({"conditioning": _text(4, 64)}, ["(4, 64)", "(batch, tokens, width)"]),
    "no text at all": ({"conditioning": [[None, {}]]}, ["Prompt 1", "shape ()"]),
    "alpha nan": ({"alpha": float("nan")}, ["nan", "finite"]),
    "alpha infinite": ({"alpha": float("inf")}, ["inf"]),
    "gate without model": ({"gate": Gate()}, ["no model", "Connect model"]),
    "unknown scope": ({"scope": "faces"}, ["'faces'", "subject"]),
    "unknown norm": ({"norm": "loud"}, ["'loud'", "prompt"]),
    "content without clip": ({"scope": "content", "text": "a man"}, ["no clip", "'all'"]),
    "other tokens": (
        {"scope": "content", "clip": _Words(), "text": "x"},
        ["qwen", "t5xxl", "'all'"],
    ),
    "identity of another source": (
        {"identity": tiny.identity()},
        ["pulid_flux", "needs fixed", "Encode SIP Identity"],
    ),
    "another encoder": (
        {"identity": identity_of({"fixed": torch.zeros(1, 1, 64)}, encoder="feedbeef" * 8)},
        ["encoder feedbeeffeed", "encoder fixed-encode", "Encode SIP Identity"],
    ),
    "tokens with infinity": (
        {"identity": identity_of({"fixed": torch.full((1, 1, 64), float("inf"))})},
        ["inf", "finite"],
    ),
    "alpha 1e308": ({"alpha": 1e308}, ["1e+308", "[-100, 100]"]),
    "empty identity": ({"identity": tiny.Identity()}, ["none", "needs fixed"]),
    "nan direction": ({"projector": _nan_source()}, ["NaN", "prompt 1"]),
    "short direction": (
        {"projector": _Short(digest="short")},
        ["(1, 15, 64)", "(1, 16, 64)", "text encoder"],
    ),
    "nan in the text": (
        {"conditioning": [[torch.full((1, 4, 64), float("nan")), {}]]},
        ["NaN", "text encoder"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises_before_sampling(case):
    changes, facts = BAD[case]
    with pytest.raises(ValueError) as error:
        apply(**changes)
    for fact in facts:
        assert fact in str(error.value), str(error.value)


BAD_WORDS = {
    "content without text": ({"scope": "content", "text": "  "}, ["no text", "Connect text"]),
    "another text": ({"scope": "content", "text": "word " * 100}, ["77 tokens", "154"]),
    "nobody in it": ({"scope": "subject", "text": "a castle by the sea"}, ["0 words", "she"]),
}


@pytest.mark.parametrize("case", BAD_WORDS)
def test_words_that_do_not_fit(clip, case):
    changes, facts = BAD_WORDS[case]
    with pytest.raises(ValueError) as error:
        apply(conditioning=_text(1, 77, 64), clip=clip, **changes)
    for fact in facts:
        assert fact in str(error.value), str(error.value)


@pytest.mark.parametrize(
    "text,places",
    [
        ("a woman reading", [2]),
        ("An old man's hat, (she:1.3) waves", [3, 7]),
        ("two women and their kids", [2, 5]),
        ("the manor of a superhero", [5]),
    ],
)
def test_subject_finds_whole_words(clip, text, places):
    from flexid.model_patches.sip.scope import scope_mask

    mask = scope_mask("subject", 77, clip, text)
    tokens = clip.tokenizer.clip_l.inv_vocab
    ids = [token for token, _ in clip.tokenize(text)["l"][0]]
    found = [tokens[ids[i]] for i in mask.nonzero().flatten().tolist()]
    assert mask.nonzero().flatten().tolist() == places, found


@pytest.mark.parametrize("norm", ["token", "prompt", "none"])
def test_norms(norm):
    from flexid.model_patches.sip.residual import match_norms

    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, 8, 16, generator=generator) * torch.arange(1, 9)[:, None]
    direction = torch.randn(1, 8, 16, generator=generator) * 5
    direction[:, 3] = 0
    scope = torch.tensor([1, 1, 1, 1, 1, 0, 0, 1], dtype=torch.bool)
    out = match_norms(direction, states, scope, norm)
    assert not out[:, 3].any() and not out[:, 5:7].any()
    live = [0, 1, 2, 4, 7]
    ratio = out[0, live].norm(dim=-1) / states[0, live].norm(dim=-1)
    if norm == "token":
        torch.testing.assert_close(ratio, torch.ones(5))
    elif norm == "prompt":
        rms = out[0, live].square().sum().sqrt() / states[0, live].square().sum().sqrt()
        assert rms.item() == pytest.approx(1, rel=1e-5)
        factors = out[0, live] / direction[0, live]
        torch.testing.assert_close(factors, factors[0, 0].expand_as(factors))
    else:
        assert torch.equal(out[0, live], direction[0, live])
