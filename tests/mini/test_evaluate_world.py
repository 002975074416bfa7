"""A whole evaluation with the random world, and the studio against the nodes it stands for."""

import argparse
import json
from dataclasses import dataclass, field, replace

import comfy.sample
import numpy as np
import pytest
import torch
from flexid.mini import world
from flexid.mini.study import dynamicid_rows, job, options, prompts, rows
from flexid.mini.study.controls import controls_of
from flexid.mini.study.dynamicid_painter import PeoplePainter
from flexid.mini.study.studio import Studio, eight_bit
from flexid.model_patches.face.boxes import Detection, Detector
from flexid.model_patches.gates.cag import Knobs
from flexid.model_patches.gates.schedule import Schedule
from flexid.model_patches.identity.mix import PRESETS as MIXES
from flexid.model_patches.inject.editid import PRESETS as EDITID
from flexid.model_patches.inject.query import MODES, QueryControl
from flexid.nodes.cag import FlexIDContextAwareGate
from flexid.nodes.editid import FlexIDEditIDPreset
from flexid.nodes.flexid import FlexIDApply
from flexid.nodes.flexip import FlexIDApplyFlexIP, FlexIDEncodeFlexIP
from flexid.nodes.id_cfg import FlexIDApplyIDCFG
from flexid.nodes.identity import FlexIDEncodeIdentity
from flexid.nodes.saa import FlexIDApplySAA, FlexIDMakePerson
from flexid.nodes.vfa import FlexIDApplyVFA
from skimage import data
from tiny_faces import face_at

pytestmark = pytest.mark.comfy

SIDE, STEPS = 64, 2
PORTRAIT = data.astronaut()[:260, 90:350]
CHOSEN = prompts.choose(["laughing", "pencil", "surprised-tilted"])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    world.build_random(folder)
    return folder


@dataclass
class QuickDetector:
    """Searches each photo once. In what random models paint there is no face to be found, which
    takes seconds to say: there it answers with one box."""

    bundled: Detector
    known: dict[bytes, list[Detection]] = field(default_factory=dict)

    def __getattr__(self, name):
        return getattr(self.bundled, name)

    def find(self, rgb):
        if rgb.shape[1] <= 128:
            return [face_at((40.0, 30.0, 88.0, 94.0))]
        key = rgb.tobytes()
        if key not in self.known:
            self.known[key] = self.bundled.find(rgb)
        return self.known[key]


@pytest.fixture(scope="module", autouse=True)
def analyser(models):
    """Of all studios here."""
    found = Studio(models, rows.settings()).analyser
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Studio, "analyser", replace(found, detector=QuickDetector(found.detector)))
        yield


@pytest.fixture(scope="module")
def studio(models):
    return Studio(models, rows.settings(side=SIDE, steps=STEPS))


@pytest.fixture(scope="module")
def sitter(studio):
    return studio.sitter(PORTRAIT)


def sampled(studio, model, positive, seed, negative=None):
    """What KSampler and VAE Decode do."""
    latent = torch.zeros(1, 16, SIDE // 8, SIDE // 8)
    noise = comfy.sample.prepare_noise(latent, seed)
    made = studio.settings
    samples = comfy.sample.sample(
        model, noise, STEPS, made.cfg, made.sampler, made.scheduler, positive,
        negative or studio.encode(""), latent, disable_pbar=True, seed=seed,
    )  # fmt: skip
    return eight_bit(studio.vae.decode(samples))[0]


@torch.inference_mode()
def by_nodes(studio, sitter, row, prompt, seed):
    """The same picture through the nodes' own execute."""
    positive, model = studio.encode(prompt.text), studio.model
    shared = (studio.adapter, sitter.identity)
    if row == rows.WHOLE:
        knobs = (0.1, 1.0, -1.0, "recommended", "auto", "unconditional")
        out = FlexIDApply.execute(
            model, positive, studio.adapter, studio.projector, sitter.identity, prompt.text,
            *knobs, clip=studio.clip,
        ).result  # fmt: skip
        model, positive = out[0], out[1]
    elif row == rows.VFA_CAG:
        k = Knobs()
        gate = FlexIDContextAwareGate.execute(
            prompt.text, k.mode, k.intent_mode, k.alpha_base, k.w_base, k.lambda_up, k.lambda_down,
            k.kappa_sem, k.kappa_vis, 1.0, 1.0, 1.0, 1.0, -1.0, k.alpha_max, k.w_max, k.time,
            "built-in",
        ).result[1]  # fmt: skip
        args = (1.0, 0.0, 1.0, "percent", "unconditional")
        model = FlexIDApplyVFA.execute(model, *shared, *args, gate=gate).result[0]
    elif row.anchor == "editid":
        mix, query, _ = FlexIDEditIDPreset.execute(row.preset).result
        identity = FlexIDEncodeIdentity.execute(
            studio.adapter, studio.tower, (sitter.face,), "mean", "auto", True, mix
        ).result[0]
        args = (1.0, 0.0, 1.0, "percent", "unconditional")
        shared = (studio.adapter, identity)
        model = FlexIDApplyVFA.execute(model, *shared, *args, query=query).result[0]
    elif row.anchor in ("rigid", "id_cfg"):
        args = (row.weight, 0.0, 1.0, "percent", "unconditional")
        model = FlexIDApplyVFA.execute(model, *shared, *args).result[0]
    if row.anchor == "id_cfg":
        model = FlexIDApplyIDCFG.execute(model, row.scale, 0.0, 1.0, "percent").result[0]
    if row.anchor == "flexip":
        identity = FlexIDEncodeFlexIP.execute(
            studio.flexip, sitter.photo, "auto", faces=(sitter.face,), eva_clip=studio.tower
        ).result[0]
        model, positive, negative, _ = FlexIDApplyFlexIP.execute(
            model, positive, studio.encode(""), studio.flexip, identity, row.weight, 1.0, "auto",
            1.0,
        ).result  # fmt: skip
        return sampled(studio, model, positive, seed, negative)
    return sampled(studio, model, positive, seed)


PAINTED = [
    rows.ALONE,
    rows.rigid_row(1.0),
    rows.editid_row("balanced"),
    rows.id_cfg_row(0.5),
    rows.flexip_row(0.4),
    rows.VFA_CAG,
    rows.WHOLE,
]


@pytest.mark.parametrize("row", PAINTED)
def test_the_studio_paints_what_the_nodes_paint(studio, sitter, row):
    """Several prompts at once in the studio, one by one here: equal but for rounding."""
    seeds = [5, 6, 7]
    painted = studio.paint(row, sitter, CHOSEN, seeds)
    plain = studio.paint(rows.ALONE, None, CHOSEN, seeds)
    for index, prompt in enumerate(CHOSEN):
        expected = by_nodes(studio, sitter, row, prompt, seeds[index])
        difference = np.abs(painted[index].astype(int) - expected)
        assert difference.max() <= 1, prompt.id
        assert row == rows.ALONE or np.abs(painted[index].astype(int) - plain[index]).mean() > 0.5


@pytest.fixture(scope="module")
def people(studio):
    return PeoplePainter(studio)


@pytest.mark.parametrize("row", dynamicid_rows.ONE, ids=lambda row: row.key)
@torch.inference_mode()
def test_one_person_of_the_suite_is_painted_as_the_nodes_do(studio, people, row):
    sitter, prompt = people.sitter(PORTRAIT), CHOSEN[0]
    [painted] = people.paint(row, sitter, [prompt], [5])
    edited = row in (dynamicid_rows.SAA_IMR, dynamicid_rows.SAA_UNSAID)
    identity = people.edits.edited(sitter, prompt) if edited else sitter.identity
    if row in (dynamicid_rows.PLAIN, dynamicid_rows.PLAIN_UNSAID):
        args = (1.0, 0.0, 1.0, "percent", "unconditional")
        model = FlexIDApplyVFA.execute(studio.model, people.adapter, identity, *args).result[0]
    else:
        person = FlexIDMakePerson.execute(identity, 1.0, "", "").result[0]
        as_added = ("corrected", "activation", 2.0, 0.24, True, 0.3, 0.5, 1.0)
        slots = {"person0": person}
        model = FlexIDApplySAA.execute(studio.model, people.adapter, slots, *as_added).result[0]
    assert prompt.text == "portrait of a laughing person in a park"
    unsaid = row in (dynamicid_rows.PLAIN_UNSAID, dynamicid_rows.SAA_UNSAID)
    text = "portrait of a person in a park" if unsaid else prompt.text
    expected = sampled(studio, model, studio.encode(text), 5)
    assert np.abs(painted.astype(int) - expected).max() <= 1
    alone = studio.paint(rows.ALONE, None, [prompt], [5])[0]
    assert np.abs(painted.astype(int) - alone).mean() > 0.5


def test_a_half_is_its_own_persons_where_people_are_placed(people):
    """Somebody else on the right changes the left far less where both have a place: there only the
    negative prompt, which covers both halves, tells the left of it."""
    sitter, scene = people.sitter(PORTRAIT), dynamicid_rows.SCENES[0]
    tokens = sitter.identity.encodings["pulid_flux"]
    encodings = {"pulid_flux": replace(tokens, tokens=-tokens.tokens)}
    other = replace(sitter, identity=replace(sitter.identity, encodings=encodings))
    shares = []
    for row in (dynamicid_rows.COUPLE_SAA, dynamicid_rows.COUPLE_PLAIN):
        one, two = (
            people.paint_couple(row, [sitter, right], scene, 5).astype(int)
            for right in (sitter, other)
        )
        assert one.shape == (SIDE, 2 * SIDE, 3)
        left, right = (half.mean() for half in np.split(np.abs(one - two), 2, axis=1))
        assert right > 0.5
        shares.append(left / right)
    assert shares[0] < 0.5 * shares[1], shares


def test_sip_alone_leans_every_prompt_by_itself(studio, sitter):
    together = studio.paint(rows.SIP_ONLY, sitter, CHOSEN, [5, 6, 7])
    alone = [
        studio.paint(rows.SIP_ONLY, sitter, [prompt], [seed])[0]
        for prompt, seed in zip(CHOSEN, [5, 6, 7], strict=True)
    ]
    plain = studio.paint(rows.ALONE, None, CHOSEN, [5, 6, 7])
    assert np.abs(together.astype(int) - np.stack(alone)).max() <= 1
    assert (together != plain).any(axis=(1, 2, 3)).all()


def chosen_options(tmp_path, models, *words):
    parser = argparse.ArgumentParser()
    options.add_options(parser)
    base = ["--people", "2", "--prompts", "laughing", "pencil", "--steps", str(STEPS)]
    chosen = parser.parse_args([*base, "--split", "tune", *words])
    return argparse.Namespace(**vars(chosen), models=models, cache=tmp_path / "cache")


def photo_of(person):
    return PORTRAIT if person % 2 else np.ascontiguousarray(PORTRAIT[:, ::-1])


def test_a_tiny_evaluation_writes_its_figures(tmp_path, models):
    files = {name: tmp_path / f"out.{name}" for name in ("json", "csv", "png")}
    words = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    chosen = chosen_options(tmp_path, models, "--rows", "alone", "sip-vfa-cag", *words)
    prepared = job.prepare(chosen, photo_of)
    count, seconds = prepared.estimate()
    assert count == 8 and seconds > 0
    assert any("about" in line for line in job.announcement(prepared, count, seconds))
    study = prepared.evaluation.run()
    job.write(study, chosen)
    document = json.loads(files["json"].read_text(encoding="utf-8"))
    assert document["people"] == {"first": 900_000, "count": 2}
    assert set(document["rows"]) == {"alone", "sip-vfa-cag"}
    changed = document["rows"]["sip-vfa-cag"]["figures"]["disruption"]
    assert changed["mean"] > 0.005 and changed["count"] == 4
    told = document["rows"]["alone"]["figures"]
    assert told["edit"] is None and told["trained_edit"] is None  # random world: no estimators
    assert told["similarity"] is None and told["trained_similarity"]["count"] == 4
    assert document["weights"].keys() == set(world.WRITERS)
    assert files["png"].stat().st_size > 10_000 and "disruption" in files["csv"].read_text()
    assert job.prepare(chosen, photo_of).estimate() == (0, 0.0)


def test_knobs_reach_the_gate_and_the_cache(tmp_path, models):
    rigidly = chosen_options(tmp_path, models, "--rows", "vfa-cag", "--people", "1")
    first = job.prepare(rigidly, photo_of).evaluation
    first.run()
    rigidly.knob = [("lambda_down", 1.0)]
    other = job.prepare(rigidly, photo_of).evaluation
    assert other.study.knobs["lambda_down"] == 1.0
    assert other.to_paint() == 2  # the gated row; the prompt alone is kept
    other.run()
    one, two = (e.store.load(rows.VFA_CAG, 900_000, CHOSEN[0]) for e in (first, other))
    assert not np.array_equal(one, two)


def test_the_presets_are_those_of_the_node():
    assert rows.PRESETS == tuple(EDITID) and rows.MIXES == tuple(MIXES)
    assert ("off", *rows.QUERIES) == MODES


def test_a_row_has_the_controls_that_its_name_says():
    asked = controls_of(rows.query_row("soft_append", 0.7))
    assert asked.query == QueryControl("soft_append", Schedule(alpha=0.7))
    assert asked.mix == MIXES["faithful"]
    mixed = controls_of(rows.mix_row("loose"))
    assert mixed.mix == MIXES["loose"] and mixed.query.is_neutral
    assert controls_of(rows.editid_row("balanced")) == EDITID["balanced"]
    assert controls_of(rows.rigid_row(1.0)) is None


def test_consistency_is_the_rigid_anchor_bit_for_bit(studio, sitter):
    made = [
        studio.paint(row, sitter, CHOSEN[:1], [5])
        for row in (rows.rigid_row(1.0), *map(rows.editid_row, rows.PRESETS))
    ]
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[1], made[2]) and not np.array_equal(made[2], made[3])


def test_another_photo_gives_another_picture(studio, sitter):
    other = studio.sitter(np.ascontiguousarray(PORTRAIT[:, ::-1]))
    pictures = [studio.paint(rows.rigid_row(1.0), s, CHOSEN[:1], [5]) for s in (sitter, other)]
    assert not np.array_equal(*pictures)
