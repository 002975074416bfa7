"""What the suite of DynamicID edits for a prompt, and that it edits a person once."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from flexid.mini.study import edits
from flexid.mini.study.edits import Edits, nearest_orientation, target_of
from flexid.mini.study.prompts import Prompt, all_prompts
from flexid.model_patches.identity.motion_words import EXPRESSIONS, ORIENTATIONS, Target

pytestmark = pytest.mark.comfy


class Known:
    """A sitter, known by itself as the studio's are."""

    def __init__(self, identity, photo):
        self.identity, self.photo = identity, photo


HAPPY = Prompt("laughing", "a laughing person", expression="happy")


def test_a_prompt_is_what_a_user_would_choose_on_the_node():
    found = {prompt.id: target_of(prompt) for prompt in all_prompts()}
    assert found["laughing"] == Target("happy", "front view")
    assert found["left"] == Target(None, "slightly left")
    assert found["up"] == Target(None, "facing up")
    assert found["oil"] is None and found["pencil"] is None
    assert found["fearful-watercolour"] == Target("afraid", "front view")
    assert found["disgusted-down-pencil"] == Target("disgusted", "facing down")
    assert found["surprised-tilted"] == Target("surprised", "front view"), "no tilt is seen"
    named = [one for one in found.values() if one is not None]
    assert all(one.expression in (None, *EXPRESSIONS) for one in named)
    assert all(one.orientation in (None, *ORIENTATIONS) for one in named)


def test_the_nearest_orientation_is_chosen():
    assert nearest_orientation(30.0, 0.0) == "slightly right"
    assert nearest_orientation(-55.0, 5.0) == "side view left"
    assert nearest_orientation(0.0, -18.0) == "facing down"


def test_a_person_is_edited_once_for_each_prompt(monkeypatch):
    calls = []

    def edit(editor, identity, clip, targets, **given):
        calls.append((identity, targets, given))
        return SimpleNamespace(identities=(object(),))

    monkeypatch.setattr(edits, "edit_identity", edit)
    monkeypatch.setattr(Edits, "editor", None)
    made = Edits(Path("models"), "clip", "analyser")
    sitters = [Known(object(), number) for number in range(2)]
    first = made.edited(sitters[0], HAPPY)
    assert made.edited(sitters[0], HAPPY) is first and len(calls) == 1
    assert made.edited(sitters[1], HAPPY) is not first
    assert [given["source"] for _, _, given in calls] == [0, 1]
    assert {given["source_words"] for _, _, given in calls} == {"neutral"}
    style = Prompt("oil", "an oil painting of a person", style="oil")
    assert made.edited(sitters[0], style) is sitters[0].identity and len(calls) == 2
