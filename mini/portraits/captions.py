"""Captions: what an onlooker would say of a picture, in varied English."""

import re
from collections.abc import Iterable

import numpy as np

from .persons import Person
from .shots import Picture, Shot

MOODS = {
    "happy": ("smiling", "happy", "laughing", "grinning", "cheerful", "joyful"),
    "sad": ("sad", "crying", "unhappy", "tearful", "weeping"),
    "surprised": ("surprised", "astonished", "shocked", "amazed", "startled"),
    "angry": ("angry", "furious", "enraged", "scowling"),
    "disgusted": ("disgusted", "grimacing"),
    "fearful": ("scared", "frightened", "terrified", "fearful", "afraid"),
}
PHRASES = {
    "neutral": ("with a neutral expression", "with a calm expression", "with a serious expression"),
    "happy": ("with a big smile", "with a happy smile", "with a wide grin", "with a happy face"),
    "sad": ("with a sad face", "in tears", "with tears in the eyes", "with a sad expression"),
    "surprised": (
        "with a surprised look",
        "with the mouth wide open in surprise",
        "looking surprised",
    ),
    "angry": ("with an angry face", "with an angry scowl", "with a furious look"),
    "disgusted": ("with a look of disgust", "with a disgusted face", "pulling a face in disgust"),
    "fearful": ("with a look of fear", "with a frightened face", "looking scared"),
}
PLACES = {
    "studio": ("in front of a plain background", "in a studio", "against a plain wall"),
    "park": ("in a park", "in front of green trees", "in a green park"),
    "beach": ("at the beach", "on a sunny beach", "by the sea"),
    "city": ("in a city street at night", "in the city at night", "in front of city lights"),
    "library": ("in a library", "in front of a bookshelf"),
    "kitchen": ("in a kitchen", "in the kitchen"),
    "mountains": ("in the mountains", "in front of snowy mountains"),
    "snow": ("in the snow", "in a snowy forest", "on a snowy winter day"),
    "cafe": ("in a cafe", "in a cosy cafe"),
    "space": ("in space", "in front of stars and planets", "in outer space"),
    "desert": ("in the desert", "in a desert with cacti"),
    "garden": ("in a garden", "in a garden full of flowers", "in front of flowers"),
}
LIGHTING = {
    "soft": ("in soft light", "in daylight"),
    "warm": ("in warm sunset light", "in warm evening light", "at sunset"),
    "cold": ("in cold blue light", "in cold light"),
    "dramatic": ("in dramatic side light", "with dramatic lighting", "half in shadow"),
}
MEDIA = {
    "photo": (
        "a photo of",
        "a portrait photo of",
        "a photograph of",
        "photo of",
        "portrait of",
        "",
    ),
    "sketch": ("a pencil sketch of", "a pencil drawing of", "a black and white pencil sketch of"),
    "oil": ("an oil painting of", "an oil portrait of", "oil painting of"),
    "comic": ("a comic book drawing of", "a comic drawing of", "comic book illustration of"),
    "watercolour": ("a watercolour of", "a watercolor painting of", "a watercolour portrait of"),
}
_ENDINGS = {
    "photo": ("photo", "realistic photo"),
    "sketch": ("pencil sketch", "pencil drawing"),
    "oil": ("oil painting", "oil on canvas"),
    "comic": ("comic book style", "comic art"),
    "watercolour": ("watercolour", "watercolor painting"),
}
_HAIR = {
    "bald": ("bald", ""), "balding": ("balding", ""), "buzz": ("", "{colour} buzz cut"),
    "short": ("", "short {colour} hair"), "side part": ("", "{colour} side-parted hair"),
    "quiff": ("", "a {colour} quiff"), "spiky": ("", "spiky {colour} hair"),
    "curly": ("", "curly {colour} hair"), "afro": ("", "a {colour} afro"),
    "pixie": ("", "a {colour} pixie cut"), "bob": ("", "a {colour} bob"),
    "fringe": ("", "{colour} hair with a fringe"), "long straight": ("", "long {colour} hair"),
    "long wavy": ("", "long wavy {colour} hair"), "long curly": ("", "long curly {colour} hair"),
    "ponytail": ("", "a {colour} ponytail"), "bun": ("", "{colour} hair in a bun"),
    "pigtails": ("", "{colour} pigtails"),
}  # fmt: skip
_BEARDS = {
    "stubble": "stubble",
    "moustache": "a moustache",
    "goatee": "a goatee",
    "short beard": "a short beard",
    "full beard": "a beard",
    "long beard": "a long beard",
}
LARGE_YAW, LARGE_PITCH, LARGE_ROLL = 20.0, 12.0, 12.0  # degrees from which a pose is spoken of
_FACING = ("facing the camera", "looking at the camera")
_TURNED = ("looking to the {side}", "turned to the {side}", "with the head turned to the {side}")
_FAR_TURNED = "in three-quarter view"
_UP, _DOWN = "looking up", "looking down"
_TILTED = ("with the head tilted", "with a tilted head", "tilting the head")
_AFRAID = "who is afraid"


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return str(choices[int(rng.integers(len(choices)))])


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _noun(rng: np.random.Generator, who: Person) -> str:
    if who.age == "child":
        return _pick(rng, ("child", "kid", {"woman": "girl", "man": "boy"}[who.gender]))
    return "person" if rng.random() < 0.4 else who.gender


def _age_word(rng: np.random.Generator, who: Person) -> str:
    words = {"young": ("young",), "middle-aged": ("middle-aged",), "old": ("old", "elderly")}
    return _pick(rng, words[who.age]) if who.age in words and rng.random() < 0.3 else ""


def traits(who: Person) -> list[str]:
    """What can be said after "with"."""
    hair = _HAIR[who.hair_style][1].format(colour=who.hair_colour)
    found = [_article(hair[2:]) if hair.startswith("a ") else hair] if hair else []
    if who.glasses != "none":
        found.append(
            {"thick": "thick glasses", "round": "round glasses"}.get(who.glasses, "glasses")
        )
    if who.beard != "none":
        found.append(_BEARDS[who.beard])
    if who.mark in ("freckles", "scar"):
        found.append({"freckles": "freckles", "scar": "a scar"}[who.mark])
    return found


def _pose(rng: np.random.Generator, view: Shot) -> str:
    """The largest turn of the head in words, or nothing for a small one."""
    sizes = [abs(view.yaw) / LARGE_YAW, abs(view.pitch) / LARGE_PITCH, abs(view.roll) / LARGE_ROLL]
    largest = int(np.argmax(sizes))
    if sizes[largest] < 1:
        return _pick(rng, ("", "", "", "", *_FACING))
    if largest == 1:
        return _UP if view.pitch > 0 else _DOWN
    if largest == 2:
        return _pick(rng, _TILTED)
    side = "right" if view.yaw > 0 else "left"
    words = [one.format(side=side) for one in _TURNED]
    if abs(view.yaw) > 28:
        words.append(_FAR_TURNED)
    return _pick(rng, tuple(words))


def _clothes(rng: np.random.Generator, view: Shot) -> str:
    dressed = {
        "suit": f"{view.colour} suit with a tie",
        "denim jacket": f"denim jacket over {_article(view.colour)} t-shirt",
        "striped top": "striped top",
    }.get(view.clothing, f"{view.colour} {view.clothing}")
    return f"{_pick(rng, ('wearing', 'in', 'dressed in'))} {_article(dressed)}"


def _subject(
    rng: np.random.Generator, who: Person, view: Shot, known: float
) -> tuple[str, list[str]]:
    """A noun phrase, and what is said behind it."""
    before, behind = [_age_word(rng, who)], []
    bare = _HAIR[who.hair_style][0]
    if rng.random() < known:
        named = traits(who)
        if bare and rng.random() < 0.6:
            before.append(bare)
        elif named:
            count = min(len(named), 1 + int(rng.random() < 0.35))
            chosen = sorted(rng.choice(len(named), count, replace=False))
            behind.append("with " + " and ".join(named[k] for k in chosen))
    mood = rng.random()
    if view.expression == "neutral":
        behind += [_pick(rng, PHRASES["neutral"])] if mood < 0.6 else []
    elif mood < 0.62:
        word = _pick(rng, MOODS[view.expression])
        if word == "afraid":
            behind.append(_AFRAID)
        else:
            before.insert(0, word)
    elif mood < 0.93:
        behind.append(_pick(rng, PHRASES[view.expression]))
    words = " ".join([word for word in before if word] + [_noun(rng, who)])
    return _article(words), behind


def _surroundings(rng: np.random.Generator, view: Shot, place: float, light: float) -> list[str]:
    said = [_pick(rng, PLACES[view.scene])] if rng.random() < place else []
    if rng.random() < (light if view.light != "soft" else 0.12):
        said.append(_pick(rng, LIGHTING[view.light]))
    return said


def _name_medium(rng: np.random.Generator, text: str, view: Shot) -> str:
    """With the medium named before or after, or not at all for photos."""
    if view.style != "photo" and rng.random() < 0.2:
        return f"{text}, {_pick(rng, _ENDINGS[view.style])}"
    medium = _pick(rng, MEDIA[view.style])
    return f"{medium} {text}" if medium else text


def _describe_one(rng: np.random.Generator, who: Person, view: Shot) -> str:
    subject, behind = _subject(rng, who, view, 0.4)
    pose = _pose(rng, view) if rng.random() < 0.9 else ""
    clothes = _clothes(rng, view) if rng.random() < 0.36 else ""
    around = _surroundings(rng, view, 0.62, 0.5)
    if around and rng.random() < 0.15:  # the place first
        first, rest = around[0], around[1:]
        body = " ".join([subject, *behind, pose, clothes, *rest]).split()
        return _name_medium(rng, " ".join(body) + ", " + first, view)
    loose = rng.random() < 0.4
    parts = [part for part in (pose, clothes) if part]
    glue = ", " if loose else " "
    text = glue.join([" ".join([subject, *behind]), *parts])
    return _name_medium(rng, " ".join([text, *around]), view)


def _describe_many(rng: np.random.Generator, picture: Picture) -> str:
    places = {
        2: ("on the left", "on the right"),
        3: ("on the left", "in the middle", "on the right"),
    }[len(picture.people)]
    said = []
    for (who, view), place in zip(picture.people, places, strict=True):
        subject, behind = _subject(rng, who, view, 0.25 if len(places) == 2 else 0.0)
        words = [subject, *behind[:1]]
        if rng.random() < 0.25 and len(places) == 2:
            words.append(_clothes(rng, view))
        said.append(" ".join([*words, place]))
    text = f"{', '.join(said[:-1])} and {said[-1]}"
    around = _surroundings(rng, picture.people[0][1], 0.5, 0.4)
    return _name_medium(rng, ", ".join([text, *around[:1]]), picture.people[0][1])


def caption(rng: np.random.Generator, picture: Picture) -> str:
    """One way to say what is seen: about twenty tokens of T5, at most 45."""
    texts = [_draft_caption(rng, picture) for _ in range(6)]
    short = [text for text in texts if _tokens(text) <= 35]
    return short[0] if short else min(texts, key=_tokens)


def _any_of(phrases: Iterable[str]) -> str:
    """A pattern of these words, the longest that fits."""
    return "|".join(map(re.escape, sorted(phrases, key=len, reverse=True)))


_MOTION = re.compile(
    ",? *(?:{behind})(?![a-z])|(?<![a-z])(?:{before}) ".format(
        behind=_any_of(
            (
                *(phrase for phrases in PHRASES.values() for phrase in phrases),
                *(one.format(side=side) for one in _TURNED for side in ("left", "right")),
                *(*_FACING, *_TILTED, _UP, _DOWN, _FAR_TURNED, _AFRAID),
            )
        ),
        before=_any_of(word for words in MOODS.values() for word in words),
    )
)
_ARTICLE = re.compile(r"\b(a|an) (?=(\w))")


def hide_motion(text: str) -> str:
    """A caption of one person without the words for expression and pose."""
    left = _MOTION.sub("", text).strip(", ")
    return _ARTICLE.sub(lambda found: "an " if found[2] in "aeiou" else "a ", left)


def _draft_caption(rng: np.random.Generator, picture: Picture) -> str:
    one = len(picture.people) == 1
    text = _describe_one(rng, *picture.people[0]) if one else _describe_many(rng, picture)
    return " ".join(text.split())


def _tokens(text: str) -> int:
    """About how many tokens of T5 a text has: long words are cut in two, commas count."""
    words = text.replace("-", " - ").replace(",", " ,").split()
    return 1 + sum(1 + (len(word) > 6) + (len(word) > 9) for word in words)
