"""The portraits: what a seed fixes, what a pose does, where faces are, what captions say."""

import itertools
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from flexid.mini import portraits
from flexid.mini.portraits import captions, drawing, persons
from flexid.model_patches.gates.intent.intent import read_intent

pytest.importorskip("resvg_py")
pytestmark = pytest.mark.pure

STILL = {"expression": "neutral", "intensity": 0.9, "yaw": 0.0, "pitch": 0.0, "roll": 0.0}
PLAIN = {"scene": "studio", "light": "soft", "style": "photo", "variant": 4}
DRESSED = {"clothing": "hoodie", "colour": "blue"}


def one(who, **changed):
    """A picture of one person in the middle, plain but for what is changed."""
    person = portraits.person(who) if isinstance(who, int) else who
    view = portraits.shot(np.random.default_rng(0), **STILL | PLAIN | DRESSED | changed)
    return portraits.Picture(((person, view),), (portraits.Framing(0.5, 0.48, 0.26),))


def drawn(seed, count=1):
    rng = np.random.default_rng(seed)
    people = [(portraits.person(10 * seed + k), portraits.shot(rng)) for k in range(count)]
    return portraits.picture(rng, people)


def face(picture, size=128):
    return portraits.render(picture, size).faces[0]


def test_a_seed_gives_the_same_picture_and_another_seed_another():
    first, again, other = (portraits.render(drawn(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.faces[0].points, again.faces[0].points)
    assert np.abs(first.image.astype(int) - other.image).mean() > 5
    assert portraits.svg(drawn(1)) == portraits.svg(drawn(1))
    said = [portraits.caption(np.random.default_rng(s), drawn(1)) for s in (3, 3, 4)]
    assert said[0] == said[1] != said[2]


def test_vectors_are_of_one_length_and_about_unit_variance():
    vectors = np.stack([portraits.person(seed).vector() for seed in range(400)])
    assert vectors.dtype == np.float32 and vectors.shape == (400, portraits.IDENTITY_SIZE)
    numbers = vectors[:, : len(persons._NUMBERS)]
    assert len(persons._NUMBERS) >= 30
    assert np.abs(numbers.mean(0)).max() < 0.25 and np.abs(numbers.std(0) - 1).max() < 0.15
    one_hots = vectors[:, len(persons._NUMBERS) :]
    assert set(np.unique(one_hots)) == {0.0, 1.0}
    assert (one_hots.sum(1) == len(persons._CHOICES)).all()


def test_every_named_choice_is_somebody_s():
    people = [portraits.person(seed) for seed in range(3000)]
    for name, choices in persons._CHOICES.items():
        assert {getattr(who, name) for who in people} == set(choices), name


def test_people_are_plausible():
    for who in map(portraits.person, range(600)):
        if who.gender == "woman" or who.age == "child":
            assert who.beard == "none"
        if who.age == "child":
            assert who.hair_style not in ("bald", "balding")
            assert who.hair_colour not in ("grey", "white")


@pytest.mark.parametrize("size", [64, 128, 200])
def test_sizes_scale_image_box_and_points(size):
    picture = one(7)
    found, usual = portraits.render(picture, size), face(picture)
    assert found.image.shape == (size, size, 3) and found.image.dtype == np.uint8
    assert found.faces[0].points.dtype == np.float32
    np.testing.assert_allclose(found.faces[0].points / size, usual.points / 128, atol=1e-5)
    np.testing.assert_allclose(np.divide(found.faces[0].box, size), np.divide(usual.box, 128))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_boxes_and_points_lie_inside_and_people_stand_in_order(count):
    heights = {1: (62, 92), 2: (29, 46), 3: (21, 35)}[count]
    for seed in range(12):
        faces = portraits.render(drawn(40 + seed, count)).faces
        assert len(faces) == count
        middles = [(f.box[0] + f.box[2]) / 2 for f in faces]
        assert middles == sorted(middles)
        for found in faces:
            x0, y0, x1, y1 = found.box
            assert 0 <= x0 < x1 <= 128 and 0 <= y0 < y1 <= 128
            assert heights[0] <= y1 - y0 <= heights[1]
            assert (found.points > np.array([x0, y0]) - 2).all()
            assert (found.points < np.array([x1, y1]) + 2).all()


def test_points_come_in_order():
    for seed in range(20):
        left_eye, right_eye, nose, left, right = face(one(seed)).points
        assert left_eye[0] < nose[0] < right_eye[0] and left[0] < nose[0] < right[0]
        assert left_eye[1] < nose[1] < left[1]


def nose_aside(points):
    """How far the nose is to the right of the eyes' middle, in distances between the eyes."""
    eyes = (points[0] + points[1]) / 2
    return (points[2, 0] - eyes[0]) / np.linalg.norm(points[1] - points[0])


def test_yaw_pitch_and_roll_turn_as_they_say():
    for seed in (2, 5, 11):
        asides = [nose_aside(face(one(seed, yaw=yaw)).points) for yaw in (-40.0, -15.0, 15.0, 40.0)]
        assert asides == sorted(asides) and asides[0] < -0.25 and asides[-1] > 0.25
        noses = [face(one(seed, pitch=pitch)).points for pitch in (-20.0, 0.0, 20.0)]
        below = [float(p[2, 1] - p[:2, 1].mean()) for p in noses]
        assert below[0] > below[1] > below[2]
        for roll in (-20.0, 20.0):
            points = face(one(seed, roll=roll)).points
            turned = np.degrees(np.arctan2(*(points[1] - points[0])[::-1]))
            assert turned == pytest.approx(roll, abs=0.5)


def test_a_turned_head_shows_its_eyes_closer_together():
    ahead, turned = (face(one(9, yaw=yaw)).points for yaw in (0.0, 40.0))
    apart = [np.linalg.norm(points[1] - points[0]) for points in (ahead, turned)]
    assert apart[1] < 0.9 * apart[0]


def crop(picture):
    """(40, 40, 3) float: the face alone, so that clothes and places do not count."""

    found = portraits.render(picture)
    x0, y0, x1, y1 = (int(round(value)) for value in found.faces[0].box)
    return cv2.resize(found.image[y0:y1, x0:x1], (40, 40), interpolation=cv2.INTER_AREA) / 255.0


def test_people_differ_more_than_one_person_s_expressions():
    moods = ("neutral", "happy", "sad", "surprised")
    crops = {(s, m): crop(one(s, expression=m)) for s in range(12) for m in moods}
    same, other = [], []
    for (one_key, a), (other_key, b) in itertools.combinations(crops.items(), 2):
        gap = np.abs(a - b).mean()
        if one_key[0] == other_key[0]:
            same.append(gap)
        elif one_key[1] == other_key[1]:
            other.append(gap)
    assert np.median(other) > 2.5 * np.median(same)


def test_every_expression_is_seen_and_moves_no_eye_apart():
    for seed in (3, 14):
        plain = face(one(seed)).points
        images = [crop(one(seed, expression=mood)) for mood in portraits.EXPRESSIONS]
        for a, b in itertools.combinations(images, 2):
            assert np.abs(a - b).mean() > 0.008
        for mood in portraits.EXPRESSIONS:
            np.testing.assert_allclose(face(one(seed, expression=mood)).points[:3], plain[:3])


def test_a_smile_lifts_the_corners_of_the_mouth_and_sadness_drops_them():
    happy, neutral, sad = (
        face(one(6, expression=mood)).points[3:, 1].mean() for mood in ("happy", "neutral", "sad")
    )
    assert happy < neutral - 1 < neutral < sad - 1


def colourfulness(image):
    return float((image.max(2).astype(int) - image.min(2)).mean())


def test_styles_differ_and_only_the_sketch_is_grey():
    images = {s: portraits.render(one(4, style=s, scene="park")).image for s in portraits.STYLES}
    for a, b in itertools.combinations(images.values(), 2):
        assert np.abs(a.astype(int) - b).mean() > 8
    assert colourfulness(images["sketch"]) < 20
    assert min(colourfulness(images[s]) for s in portraits.STYLES if s != "sketch") > 35


def test_lights_and_scenes_and_clothes_differ():
    for name, choices in (
        ("light", portraits.LIGHTS),
        ("scene", portraits.SCENES),
        ("clothing", portraits.CLOTHES),
        ("colour", tuple(portraits.COLOURS)),
    ):
        images = [portraits.render(one(8, **{name: choice})).image for choice in choices]
        for a, b in itertools.combinations(images, 2):
            assert np.abs(a.astype(int) - b).max() > 40, name


EXTREME = [(45.0, 25.0, 25.0), (-45.0, -25.0, 25.0), (45.0, -25.0, -25.0), (0.0, 0.0, 0.0)]


@pytest.mark.parametrize("style", portraits.STYLES)
def test_everything_is_drawn_at_every_angle(style):
    """Each named part once per style, in turn with expressions and the largest angles."""

    base = portraits.person(3)
    people = [replace(base, **{n: c}) for n, cs in persons._CHOICES.items() for c in cs]
    moods = itertools.cycle(portraits.EXPRESSIONS)
    places = itertools.cycle(portraits.SCENES)
    for who, mood, place, angles in zip(
        people, moods, places, itertools.cycle(EXTREME), strict=False
    ):
        yaw, pitch, roll = angles
        view = {"expression": mood, "scene": place, "yaw": yaw, "pitch": pitch, "roll": roll}
        found = portraits.render(one(who, style=style, **view))
        assert found.image.std() > 15
        assert np.isfinite(found.faces[0].points).all()


def test_a_person_stays_attached_at_the_largest_angles():
    """One piece of foreground: no gap between head, neck and shoulders."""

    for seed, (yaw, pitch, roll) in itertools.product(range(15), EXTREME):
        picture = one(seed, yaw=yaw, pitch=pitch, roll=roll)
        _, alpha = drawing._layers(picture, drawing.heads(picture), 128)
        count, _, stats, _ = cv2.connectedComponentsWithStats(
            (alpha[..., 0] > 0.5).astype(np.uint8)
        )
        assert stats[1:, cv2.CC_STAT_AREA].max() > 0.97 * stats[1:, cv2.CC_STAT_AREA].sum()
        assert count >= 2


def shown_mood(text):
    """The expressions that the words of a caption belong to."""
    found = set()
    for table in (captions.MOODS, captions.PHRASES):
        for mood, words in table.items():
            if any(re.search(rf"\b{re.escape(word)}\b", text) for word in words):
                found.add(mood)
    return found


def test_no_word_belongs_to_two_expressions():
    words = [w for table in (captions.MOODS, captions.PHRASES) for ws in table.values() for w in ws]
    assert len(words) == len(set(words))


def test_captions_say_what_is_drawn():
    spoken = 0
    for seed in range(400):
        picture = drawn(seed)
        (who, view) = picture.people[0]
        text = portraits.caption(np.random.default_rng(seed), picture)
        moods = shown_mood(text)
        assert moods <= {view.expression}, (text, view.expression)
        spoken += bool(moods)
        if "to the left" in text or "to the right" in text:
            assert ("right" in text) == (view.yaw > 0)
        assert ("looking up" in text) <= (view.pitch > 0)
        assert ("looking down" in text) <= (view.pitch < 0)
        assert ("glasses" in text) <= (who.glasses != "none")
        assert ("oil" in text) <= (view.style == "oil")
        assert ("pencil" in text) <= (view.style == "sketch")
        for name, words in captions.PLACES.items():
            if any(word in text for word in words):
                assert name == view.scene or (name, view.scene) == ("garden", "garden")
        assert "  " not in text and not text.endswith(",") and " ," not in text
    assert 0.75 < spoken / 400 < 0.99


def test_a_caption_without_motion_says_all_the_rest():
    """Told from the words of the lists; what is left is a caption again."""
    told = (*captions.MOODS.values(), *captions.PHRASES.values())
    motion = {word for words in told for word in words}
    motion |= {"looking", "turned", "tilt", "three-quarter", "camera"}
    rng, changed = np.random.default_rng(5), 0
    for seed in range(600):
        shown = portraits.picture(rng, ((portraits.person(seed), portraits.shot(rng)),))
        text = portraits.caption(rng, shown)
        left = captions.hide_motion(text)
        assert not [word for word in motion if word in left], f"{text} -> {left}"
        rest = iter(text.replace(",", "").split())
        for word in left.replace(",", "").split():
            assert word in ("a", "an") or word in rest, f"{text} -> {left}"
        assert " ".join(left.split()) == left and " ," not in left and ",," not in left
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", left), left
        changed += left != text
    assert changed > 400
    assert captions.hide_motion("an angry old man in a park, looking up, oil painting") == (
        "an old man in a park, oil painting"
    )
    assert (
        captions.hide_motion("photo of a woman in tears, in the snow")
        == "photo of a woman, in the snow"
    )


def test_captions_of_two_name_both_from_left_to_right():
    for seed in range(60):
        picture = drawn(700 + seed, 2)
        text = portraits.caption(np.random.default_rng(seed), picture)
        left, right = text.index("on the left"), text.index("on the right")
        assert left < right
        assert shown_mood(text[:left]) <= {picture.people[0][1].expression}
        assert shown_mood(text[left:right]) <= {picture.people[1][1].expression}


def test_captions_are_short_and_varied():
    texts = [portraits.caption(np.random.default_rng(s), drawn(s)) for s in range(300)]
    assert len(set(texts)) > 290
    words = sorted(len(text.split()) for text in texts)
    assert words[-1] <= 34 and 9 <= words[150] <= 20


def test_the_intent_dictionary_knows_the_words():
    for mood, words in captions.MOODS.items():
        for word in words:
            found = read_intent(f"a photo of a {word} person")
            assert found.categories["expression"] > 0, (mood, word)
    for mood, phrases in captions.PHRASES.items():
        for phrase in phrases:
            found = read_intent(f"a photo of a person {phrase}").categories["expression"]
            assert (found > 0) == (mood != "neutral"), phrase
    for style, media in captions.MEDIA.items():
        for medium in media:
            found = read_intent(f"{medium} a person").categories["style"]
            assert (found > 0) == (style != "photo"), medium
    for words in ("looking to the left", "in three-quarter view", "looking up", "tilting the head"):
        assert read_intent(f"a photo of a person {words}").categories["pose"] > 0, words


def test_the_large_yaw_words_are_a_pose_and_plain_photos_want_nothing():
    for words in ("turned to the right", "with the head turned to the left", "with a tilted head"):
        assert read_intent(f"a photo of a woman {words}").categories["pose"] > 0, words
    assert read_intent("a photo of a woman with a calm expression in a park").score == 0


def test_wrong_names_are_refused_with_what_there_is():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="expression must be one of neutral.*bored"):
        portraits.shot(rng, expression="bored")
    with pytest.raises(ValueError, match="zoom"):
        portraits.shot(rng, zoom=2)
    with pytest.raises(ValueError, match="1 to 3 people"):
        portraits.Picture((), ())


def test_shots_are_spread_as_stated():
    rng = np.random.default_rng(1)
    shots = [portraits.shot(rng) for _ in range(3000)]
    yaw = np.abs([view.yaw for view in shots])
    assert yaw.max() <= 45 and 0.56 < (yaw < 12).mean() < 0.7
    moods = {m: sum(view.expression == m for view in shots) / 3000 for m in portraits.EXPRESSIONS}
    assert max(moods, key=moods.get) == "neutral" and min(moods.values()) > 0.1
    assert 0.4 < sum(view.style == "photo" for view in shots) / 3000 < 0.5
    assert {view.scene for view in shots} == set(portraits.SCENES)
    assert all(abs(view.pitch) <= 25 and abs(view.roll) <= 25 for view in shots)
