"""A search of merge weights on a real server: one trial for each queue entry, kept on disk."""

import copy

import pytest
from flexid.setup import demo
from pack import ROOT
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.server


@pytest.fixture
def graph(client, portrait, models):
    """The demo's anchor with the small adapter and one of half its strength, at two steps.

    The second "person" is the same photo in colour: the search tells people by their tokens.
    """
    folder = models / "pulid"
    tensors = load_file(folder / "flexid_mini_pulid.safetensors")
    halved = {k: t / 2 if k.endswith("to_out.weight") else t for k, t in tensors.items()}
    halved |= {k: t for k, t in tensors.items() if not k.startswith("pulid_ca.")}
    save_file(halved, folder / "half.safetensors", {"flexid.cross_attention_heads": heads(folder)})
    api = ROOT / "workflows" / "api" / "demo.api.json"
    made = copy.deepcopy(demo.put_photo(demo.load_graph(api), client.upload(portrait), insist=True))
    for number in ("17", "18", "19"):
        del made[number]

    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    made["20"] = node("FlexIDLoadIdentityAdapter", file="half.safetensors")
    made["21"] = node("FlexIDEncodeIdentity", **{**made["9"]["inputs"], "grey": False})
    scope = {"layers": "all", "paths": "all", "encoder": "equal"}
    tried = {"method": "lerp", "steps": 2, "weights": "", "prompts": "a person in a park"}
    sockets = {"adapters.adapter0": ["7", 0], "adapters.adapter1": ["20", 0]}
    sockets |= {"identities.identity0": ["9", 0], "identities.identity1": ["21", 0]}
    made["22"] = node("FlexIDSearchMerge", trial=0, seed=7, **tried, **scope, **sockets)
    made["10"]["inputs"] |= {"adapter": ["22", 0], "identity": ["22", 1]}
    made["11"]["inputs"]["text"] = ["22", 2]
    made["14"]["inputs"] |= {"seed": ["22", 3], "steps": 2}
    made["23"] = node("FlexIDCompareIdentity", analyser=["5", 0], images=["15", 0],
                      **{"identities.identity0": ["22", 1]})  # fmt: skip
    texts = {"name": "search", "x_name": "likeness", "x_better": "higher", "tolerance": 0.05}
    texts |= {"y_name": "change", "y_better": "lower"}
    made["24"] = node("FlexIDSearchMergeReport", trial=["22", 4], x=["23", 3], **texts)
    made["25"] = node("PreviewAny", source=["24", 3])
    return made


def heads(folder):
    from flexid.model_patches.adapters.pulid_flux import open_adapter_file

    return str(open_adapter_file(folder / "flexid_mini_pulid.safetensors").heads)


def test_a_search_is_cancelled_goes_on_and_ends(client, graph):
    def run(trial, steps=2):
        one = copy.deepcopy(graph)
        one["22"]["inputs"]["trial"] = trial
        one["14"]["inputs"]["steps"] = steps
        return client.queue(one)["outputs"]

    for trial in (0, 1, 3):
        outputs = run(trial)
        assert "25" not in outputs, "what waits for the best weights has not run"
    [report] = outputs["24"]["text"]
    assert "3 of 4 trials done, 1 pairs" in report and "missing trials: 2" in report
    outputs = run(2)
    [report] = outputs["24"]["text"]
    assert "4 of 4 trials done, 2 pairs" in report and "draws of these people" in report
    assert outputs["25"]["text"][0] in ("1, 0", "0, 1") and len(outputs["24"]["images"]) == 1
    [report] = run(0, steps=1)["24"]["text"]
    assert "1 of 4 trials done" in report and "1 other records of this name" in report
