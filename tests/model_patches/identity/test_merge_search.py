"""Trials of a merge search: their order, what they refuse, and the record that outlives them."""

import json
import math

import pytest
import tiny
import torch
from flexid.mini.random_adapter import write_adapter
from flexid.model_patches.adapters.pulid_flux import load_adapter
from flexid.model_patches.evaluate.merge_search import Axis
from flexid.model_patches.files.records import append_record, read_records
from flexid.model_patches.identity.merge_results import check_name, digest_graph, keep_score
from flexid.model_patches.identity.merge_search import Setup, prepare_trial
from identities import identity_of
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.comfy

SETUP = Setup("lerp", "", 3, "laughing\n\nin the rain \n", 7)
AXES = Axis("likeness", "higher"), Axis("change", "lower")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pulid")
    first = load_file(write_adapter(folder / "a.safetensors", 1))
    trained = {k: t * 1.5 if k.endswith("to_out.weight") else t for k, t in first.items()}
    trained |= {k: t for k, t in first.items() if not k.startswith("pulid_ca.")}
    save_file(trained, folder / "b.safetensors")
    return [load_adapter(folder / f"{name}.safetensors") for name in "ab"]


def person(adapter, seed):
    tokens = torch.randn(1, 4, adapter.token_dim, generator=torch.Generator().manual_seed(seed))
    return identity_of({"pulid_flux": tokens}, encoder=adapter.encoder_digest)


@pytest.fixture(scope="module")
def people(adapters):
    return [person(adapters[0], seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def trials(adapters, people):
    return [prepare_trial(SETUP, number, adapters, people) for number in range(12)]


def test_weights_first_then_people_then_prompts(trials, people):
    plan = [(one.trial.weights, one.identity, one.prompt, one.seed) for one in trials]
    for number, (weights, who, prompt, seed) in enumerate(plan):
        assert weights == ("1, 0", "0.5, 0.5", "0, 1")[number % 3]
        assert who is people[number // 3 % 2]
        assert prompt == ("laughing", "in the rain")[number // 6]
        assert seed == 7 + number // 3
    assert len({one.trial.search for one in trials}) == 1 and trials[0].trial.total == 12
    assert "trial 4 of 0 to 11: weights 0.5, 0.5, identity1" in trials[4].trial.describe()


def test_what_is_searched_is_told_apart(trials, adapters, people):
    others = [
        prepare_trial(Setup("lerp", "", 3, "laughing", 7), 0, adapters, people),
        prepare_trial(Setup("lerp", "", 3, SETUP.prompts, 8), 0, adapters, people),
        prepare_trial(Setup("lerp", "", 3, SETUP.prompts, 7, "1"), 0, adapters, people),
        prepare_trial(SETUP, 0, adapters, people[::-1]),
        prepare_trial(SETUP, 0, adapters[::-1], people),
    ]
    assert len({one.trial.search for one in [trials[0], *others]}) == 6


def test_refusals_before_anything_is_merged(adapters, people):
    def never(done, total):
        raise AssertionError("nothing may be merged")

    def refuse(message, setup=SETUP, number=0, who=people):
        with pytest.raises(ValueError, match=message):
            prepare_trial(setup, number, adapters, who, watch=never)

    refuse(r"trial is 12, .* 0 to 11: 3 sets of weights x 2 people x 2 prompts", number=12)
    refuse("identity0 and identity2 are the same", who=[*people, people[0]])
    refuse("identity2 cannot be used: .* by the encoder", who=[*people, foreign()])
    refuse("0 prompts, expected 1 to 32", Setup("lerp", "", 3, " \n", 7))
    refuse("'a' is there twice", Setup("lerp", "", 3, "a\na", 7))
    refuse("1 weights .* for 2 files", Setup("lerp", "1\n2", 3, "a", 7))


def foreign():
    width = tiny.TOKEN_DIM
    return identity_of({"pulid_flux": torch.zeros(1, 4, width)}, encoder="another encoder")


def keep(folder, one, x=0.5, y=0.1, graph="graph"):
    return keep_score(folder, "merge", graph, one.trial, (x, y), AXES, 0.05)


def test_a_search_goes_on_where_it_stopped(trials, tmp_path):
    for one in trials[:4]:
        keep(tmp_path, one)
    found = keep(tmp_path, trials[8])
    assert found.search.missing == [4, 5, 6, 7, 9, 10, 11] and found.final_weights is None
    assert "missing trials: 4, 5, 6" in found.report
    for one in trials[4:8]:
        keep(tmp_path, one)
    for one in trials[9:]:
        found = keep(tmp_path, one, x=0.9 if one.trial.point == 2 else 0.5)
    assert found.search.missing == [] and found.final_weights == "0, 1"
    lines = [json.loads(line) for line in found.path.read_text().splitlines()]
    assert len(lines) == 12 and lines[1]["weights"] == "0.5, 0.5" and lines[0]["x"] == 0.5


def test_a_repeated_trial_counts_as_it_is_now(trials, tmp_path):
    for x in (0.2, 0.2, 0.4):
        found = keep(tmp_path, trials[0], x=x)
    assert found.search.scores.x == {(0, 0, 0): 0.4}
    assert len(found.path.read_text().splitlines()) == 2, "nothing is overwritten"


def test_what_could_not_be_measured(trials, tmp_path):
    for one in trials[:3]:
        found = keep(tmp_path, one, y=math.nan)
    assert found.search.best is None and "change: 1 pairs left out" in found.report
    assert '"y": null' in found.path.read_text()


def test_another_graph_begins_another_record(trials, tmp_path):
    keep(tmp_path, trials[0])
    found = keep(tmp_path, trials[1], graph="20 steps")
    assert len(found.search.scores.x) == 1 and "1 other records of this name" in found.report
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cut_line_costs_its_own_trial_alone(trials, tmp_path):
    keep(tmp_path, trials[0])
    path = keep(tmp_path, trials[1]).path
    path.write_bytes(path.read_bytes()[:-9])
    found = keep(tmp_path, trials[2])
    assert sorted(found.search.scores.x) == [(0, 0, 0), (2, 0, 0)]
    assert "1 lines of the record cannot be read" in found.report


def test_records_take_finite_numbers_only(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        append_record(tmp_path / "x.jsonl", {"x": math.nan})
    assert read_records(tmp_path / "x.jsonl").found == ()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a\\b", "x" * 61])
def test_names_stay_in_the_folder(name):
    with pytest.raises(ValueError, match="name is"):
        check_name(name)
    assert check_name(" my search-2 ") == "my search-2"


def test_the_graph_counts_without_the_trial_and_what_follows():
    def graph(trial=0, steps=20, name="a", output=0):
        return {
            "1": {"class_type": "FlexIDSearchMerge", "inputs": {"trial": trial, "seed": 1}},
            "2": {"class_type": "KSampler", "inputs": {"seed": ["1", 3], "steps": steps}},
            "3": {"class_type": "Report", "inputs": {"x": ["2", output], "name": name}},
            "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "name": name}},
        }

    def of(**changes):
        return digest_graph(graph(**changes), "3", {"FlexIDSearchMerge": "trial"})

    assert of() == of(trial=5) == of(name="b")
    assert len({of(), of(steps=4), of(output=1)}) == 3, "another model, and another figure"
