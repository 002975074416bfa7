"""The trained files that come with the pack, on people whom no recipe has seen."""

import hashlib
import json

import numpy as np
import pytest
import torch
from flexid.mini import world
from flexid.mini.study import people, prompts, report, rows
from flexid.mini.study.evaluation import noise_seed
from flexid.mini.study.figures import TABLE
from flexid.mini.study.judge import largest
from flexid.mini.study.judges import INDEPENDENT, TRAINING, open_judges
from flexid.mini.study.studio import Inputs, Studio
from flexid.mini.training import faces_evaluate, faces_held_out
from flexid.mini.training.frozen_faces import Finder, read_detector
from flexid.mini.training.install import EVALUATION
from flexid.model_patches.evaluate.statistics import Figure
from flexid.model_patches.face.align import arcface_crop
from flexid.model_patches.face.analyser import load_analyser
from flexid.model_patches.gates.cag import Knobs
from flexid.nodes.id_guidance import FlexIDApplyIDGuidance
from flexid.nodes.vfa import FlexIDApplyVFA
from torch.nn.functional import normalize

pytestmark = pytest.mark.comfy

needs_all = pytest.mark.skipif(not world.is_trained(), reason="mini/weights is not whole yet")
MOST_MEBIBYTES = 67
PEOPLE = range(1_000_000, 1_000_004)
CHOSEN = prompts.choose(["laughing", "right", "oil"])
ROWS = (rows.ALONE, rows.rigid_row(0.5), rows.rigid_row(1.0), rows.VFA_CAG, rows.WHOLE)


@pytest.fixture(scope="module")
def analyser():
    return load_analyser((world.WEIGHTS / world.DETECTOR).parent, "pack", ["CPU"], None)


@pytest.fixture(scope="module")
def singles():
    return faces_held_out.draw_singles(people=40)


@pytest.fixture(scope="module")
def found(analyser, singles):
    return [analyser.detector.find(one.image) for one in singles]


@pytest.fixture(scope="module")
def faces(found):
    """The largest of each picture."""
    assert all(found)
    return [largest(one) for one in found]


@needs_all
def test_all_files_are_there_and_small():
    assert world.is_trained()
    size = sum((world.WEIGHTS / name).stat().st_size for name in world.TRAINED)
    assert size <= MOST_MEBIBYTES * 2**20


@needs_all
def test_the_published_figures_are_those_of_these_files():
    figures = json.loads((EVALUATION / "figures.json").read_text(encoding="utf-8"))
    assert figures["people"]["first"] == 1_000_000 and len(figures["prompts"]) == 12
    suites = {world.FLEXIP, world.FLEXIP_PLAIN, world.SAA, world.IMR, world.KEY_POINTS}
    assert set(figures["weights"]) | suites == set(world.TRAINED)
    for name, digest in figures["weights"].items():
        found = hashlib.sha256((world.WEIGHTS / name).read_bytes()).hexdigest()
        assert found == digest, f"{name} is newer than its figures: run start.py evaluate again"


@needs_all
def test_the_readme_shows_the_published_figures():
    """Every cell of the table, as `start.py evaluate` would print it."""
    stated = json.loads((EVALUATION / "figures.json").read_text(encoding="utf-8"))
    page = (EVALUATION.parent / "README.md").read_text(encoding="utf-8")
    for row in stated["rows"].values():
        found = {name: value and Figure(**value) for name, value in row["figures"].items()}
        cells = [report.format_figure(metric, found[metric]) for metric in TABLE]
        assert f"| {' | '.join([row['title'], *cells])} |" in page, row["title"]
    assert f"| {' | '.join(TABLE.values())} |" in page
    assert f"{stated['people']['count']} people whom no model was trained on" in page


def test_the_detector_finds_drawn_faces(analyser, singles, found):
    groups = faces_held_out.draw_groups(pictures=60)
    in_groups = [analyser.detector.find(one.image) for one in groups]
    for seen, drawn in ((found, singles), (in_groups, groups)):
        figures = faces_evaluate.detection(seen, drawn)
        assert figures["recall"] >= 0.98 and figures["spurious per picture"] <= 0.05


def test_the_recipes_find_the_faces_that_the_pack_finds(singles, faces):
    """The detector as a torch module, in one batch."""
    find = Finder(read_detector(world.WEIGHTS / world.DETECTOR), torch.device("cpu"))
    pictures = np.stack([one.image for one in singles]).transpose(0, 3, 1, 2)
    seen = find(torch.from_numpy(pictures).float() / 127.5 - 1)
    assert seen.there.all()
    for mine, theirs in ((seen.points, "points"), (seen.boxes.reshape(-1, 2, 2), "box")):
        known = np.stack([np.reshape(getattr(face, theirs), (-1, 2)) for face in faces])
        away = np.abs(mine.numpy() - known).mean((1, 2))
        assert np.median(away) < 0.1 and away.max() < 2.5
    assert not find(torch.zeros(1, 3, 128, 128)).there.any()


@pytest.fixture(scope="module")
def judges(analyser):
    return open_judges(analyser, world.WEIGHTS)


@pytest.mark.parametrize(("name", "least"), [(INDEPENDENT, 0.97), (TRAINING, 0.99)])
def test_the_recognisers_tell_people_apart(judges, name, least, singles, faces):
    for kind, figures in faces_evaluate.recognition(judges[name], faces, singles).items():
        assert figures["area under the curve"] >= least, kind


@pytest.mark.parametrize(("name", "least"), [(INDEPENDENT, 0.95), (TRAINING, 0.99)])
def test_the_estimators_read_what_was_drawn(judges, name, least, singles, faces):
    figures = faces_evaluate.estimation(judges[name], faces, singles)
    assert figures["expression"] >= 0.95 and figures["pose"] <= 3.2
    assert figures["style"] >= least


@pytest.fixture(scope="module")
def similarity(judges):
    """Row key -> mean FaceSim of a few people by a few prompts, by the independent judge."""
    studio = Studio(world.WEIGHTS, rows.settings())
    judge = judges[INDEPENDENT]
    found = {row.key: [] for row in ROWS}
    for person in PEOPLE:
        photo = people.reference(person, studio.settings.side)
        sitter, known = studio.sitter(photo), judge.remember(photo)
        seeds = [noise_seed(person, prompt) for prompt in CHOSEN]
        for row in ROWS:
            for picture in studio.paint(row, sitter, CHOSEN, seeds):
                assert picture.std() > 10
                found[row.key].append(judge.look(picture, known).similarity)
    return {key: float(np.mean(values)) for key, values in found.items()}


@needs_all
def test_more_anchor_is_more_of_the_person(similarity):
    assert similarity["alone"] < 0.25
    assert similarity["alone"] + 0.2 < similarity["vfa-0.5"] < similarity["vfa-1"]
    assert similarity["vfa-1"] > 0.45


@needs_all
def test_the_gate_keeps_the_person_and_less_than_the_rigid_anchor(similarity):
    for gated in ("vfa-cag", "sip-vfa-cag"):
        assert similarity["alone"] + 0.3 < similarity[gated] < similarity["vfa-1"]


@needs_all
def test_the_residual_leans_towards_its_own_person(analyser):
    """At five times the pack's α, so that a few pictures tell; people to tune with."""
    studio = Studio(world.WEIGHTS, rows.settings(), Knobs(alpha_base=0.5))
    crowd = range(900_300, 900_316)
    sitters = [studio.sitter(people.reference(one, studio.settings.side)) for one in crowd]
    known = normalize(torch.stack([sitter.face.embedding for sitter in sitters]))
    found = []
    for person, sitter in zip(crowd, sitters, strict=True):
        seeds = [noise_seed(person, prompt) for prompt in CHOSEN]
        pictures = studio.paint(rows.SIP_ONLY, sitter, CHOSEN, seeds)
        seen = [largest(analyser.detector.find(one)).points for one in pictures]
        crops = [arcface_crop(one, five) for one, five in zip(pictures, seen, strict=True)]
        mine = torch.stack([analyser.recogniser.embed(crop) for crop in crops])
        found.append((normalize(mine) @ known.T).mean(0))
    cosines, own = torch.stack(found), torch.eye(len(crowd), dtype=torch.bool)
    assert cosines[own].mean() > cosines[~own].mean() + 0.04


@needs_all
@torch.inference_mode()
def test_the_studio_guides_as_the_node_does():
    """Here, because the random world's recogniser has operations that no guidance reads."""
    studio, row = Studio(world.WEIGHTS, rows.settings(steps=2)), rows.guided_row(0.3)
    sitter = studio.sitter(people.reference(PEOPLE[0], studio.settings.side), sip=False)
    prompt = CHOSEN[0]
    [painted] = studio.paint(row, sitter, [prompt], [5])
    identity = sitter.identity
    rigid = (row.weight, 0.0, 1.0, "percent", "unconditional")
    model = FlexIDApplyVFA.execute(studio.model, studio.adapter, identity, *rigid).result[0]
    args = (row.strength, "constant", 0.2, 0.9, "percent", 1, 1.0, 2)
    model = FlexIDApplyIDGuidance.execute(
        model, studio.analyser, studio.vae, *args, identity=identity
    ).result[0]
    inputs = Inputs(model, studio.encode(prompt.text), studio.encode(""))
    assert np.array_equal(painted, studio.sample(inputs, [5])[0])
    [unguided] = studio.paint(rows.rigid_row(row.weight), sitter, [prompt], [5])
    assert not np.array_equal(painted, unguided)
