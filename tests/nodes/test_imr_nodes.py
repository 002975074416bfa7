"""Load IMR and Edit Expression and Pose: from files to a list of identities."""

import dynamicid_world
import folder_paths
import imr_world
import pytest
import tiny_unet
import torch
from flexid.nodes import imr as nodes
from flexid.nodes.dynamicid import FlexIDEncodeDynamicID

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """An editor, a person and a text encoder."""
    folder = tmp_path_factory.mktemp("imr")
    adapter = dynamicid_world.adapter(folder, tiny_unet.sd15())
    photo = torch.rand(1, 200, 260, 3, generator=torch.Generator().manual_seed(4))
    person = FlexIDEncodeDynamicID.execute(
        adapter, dynamicid_world.vision(), imr_world.analyser(), photo, "corrected"
    )[0]
    return imr_world.editor(folder), person, imr_world.clip(folder)


def edit(parts, **changed):
    defaults = {
        one.id: one.default
        for one in nodes.FlexIDEditExpressionAndPose.define_schema().inputs
        if getattr(one, "default", None) is not None
    }
    return nodes.FlexIDEditExpressionAndPose.execute(*parts, **{**defaults, **changed})


def tokens(identity):
    return identity.encodings["dynamicid"].tokens


def test_both_files_are_listed_with_the_right_one_first(dynamicid_home):
    assert "Put IMR.bin into models/dynamicid" in nodes.EDITORS.labels()[0]
    assert "Put key_point_encoder.bin into models/dynamicid" in nodes.KEYPOINTS.labels()[0]
    imr_world.write_files(dynamicid_home)
    folder_paths.filename_list_cache.clear()
    assert nodes.EDITORS.labels()[0] == "IMR.bin"
    assert nodes.KEYPOINTS.labels()[0] == "key_point_encoder.bin"
    opened = nodes.FlexIDLoadIMR.execute("IMR.bin", "key_point_encoder.bin")
    assert opened[1] == (
        "DynamicID IMR: 1 + 1 blocks of 64 channels, face tokens of 64, 4 motion tokens of "
        "landmarks and text of 64"
    )
    first = nodes.FlexIDLoadIMR.fingerprint_inputs("IMR.bin", "key_point_encoder.bin")
    assert first == nodes.FlexIDLoadIMR.fingerprint_inputs("IMR.bin", "key_point_encoder.bin")
    assert len(set(first)) == 2
    with pytest.raises(ValueError, match="is the keypoint encoder of DynamicID"):
        nodes.FlexIDLoadIMR.execute("key_point_encoder.bin", "key_point_encoder.bin")


def test_the_wrong_loader_names_the_right_node(dynamicid_home):
    imr_world.write_files(dynamicid_home)
    from flexid.nodes.dynamicid import FlexIDLoadDynamicID

    with pytest.raises(ValueError, match="Open it with the Load IMR node"):
        FlexIDLoadDynamicID.execute("IMR.bin")


def test_lines_come_out_as_lists(parts):
    done = edit(parts, targets="happy\nsad, slightly left")
    identities, words, landmarks, report = done.args
    assert len(identities) == 2 and words[1] == "in a sad expression, in side view"
    assert landmarks.shape == (3, 384, 384, 3) and report.startswith("2 target(s) by IMR.bin")
    outputs = nodes.FlexIDEditExpressionAndPose.define_schema().outputs
    assert [one.is_output_list for one in outputs] == [True, True, False, False]


def test_every_widget_reaches_the_tokens(parts):
    plain = tokens(edit(parts)[0][0])
    changes = [
        {"expression": "happy"},
        {"orientation": "slightly right"},
        {"targets": "a wry smile"},
        {"source_words": "happy"},
        *({name: 20.0} for name in ("yaw", "pitch", "roll")),
        *({name: 1.0} for name in ("mouth", "smile", "eyes", "brows")),
    ]
    found = [plain, *(tokens(edit(parts, **change)[0][0]) for change in changes)]
    for number, one in enumerate(found):
        for other in found[:number]:
            assert not torch.equal(one, other), number
    seen = edit(parts, driving=torch.rand(2, 120, 100, 3), analyser=imr_world.analyser())
    assert len(seen[0]) == 2
    photo = torch.rand(1, 120, 100, 3)
    given = edit(parts, expression="happy", source=photo, analyser=imr_world.analyser())
    assert not torch.equal(tokens(given[0][0]), found[1])


def test_wrong_targets_are_refused_before_anything_runs():
    check = nodes.FlexIDEditExpressionAndPose.validate_inputs
    still = dict.fromkeys(nodes.SLIDER_TIPS, 0.0)
    assert check(targets="happy", **still) is True and check() is True
    assert "Line 1 of the targets sets 'grin'" in check(targets="happy; grin 1", **still)
    assert check(targets="", **{**still, "smile": 3.0}) == "smile is 3, expected -1 to 1."


def test_edited_people_can_be_drawn(parts, tmp_path):
    """An edited identity goes where the original went."""
    from flexid.model_patches.inject.saa import apply_saa
    from flexid.model_patches.inject.saa_people import make_person

    model = tiny_unet.sd15()
    adapter = dynamicid_world.adapter(tmp_path, model)
    prompts = tiny_unet.conditioning(1), tiny_unet.conditioning(2)
    drawn = [
        tiny_unet.sample(
            apply_saa(model, adapter, [make_person(person)]).model, *prompts, steps=1, cfg=3.0
        )
        for person in (parts[1], edit(parts, expression="happy")[0][0])
    ]
    assert not torch.equal(*drawn)
