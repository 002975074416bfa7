"""Pictures: all parts in their order, the pixels, and where the faces are."""

import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from . import beard, clothing, eyes, glasses, hair, marks, mouth, nose, scenes, skin, styles
from .geometry import UNITS, Head
from .ink import PENS, Ink, smooth
from .shots import Picture

_BLUR = {"photo": 0.0105, "oil": 0.0045, "watercolour": 0.005}  # shares of the picture


@dataclass(frozen=True)
class Face:
    """box (x0, y0, x1, y1) in pixels around forehead, cheeks and chin; points float32 (5, 2) in
    pixels: eye on the picture's left, other eye, tip of the nose, mouth corner on the picture's
    left, other corner. Points that are turned away lie where they would be seen."""

    box: tuple[float, float, float, float]
    points: np.ndarray


@dataclass(frozen=True)
class Rendered:
    """image uint8 (size, size, 3) RGB; faces in the order of the picture's people."""

    image: np.ndarray
    faces: tuple[Face, ...]


def heads(picture: Picture) -> list[Head]:
    """The turned head of every person."""
    pairs = zip(picture.people, picture.framing, strict=True)
    return [Head(who, shot, framing) for (who, shot), framing in pairs]


def _inks(picture: Picture, shown: list[Head], blur: float) -> tuple[Ink, Ink]:
    """The scene, and the people before it."""
    first = picture.people[0][1]
    scene, people = Ink(PENS[first.style]), Ink(PENS[first.style], "p")
    scenes.draw_scene(scene, first.scene, first.variant, blur)
    light = skin.light_of(first.light, first.variant)
    for head in shown:
        _draw_person(people, head, light)
    return scene, people


def svg(picture: Picture, size: int = 128) -> str:
    """The drawing before the style's work on the pixels."""
    scene, people = _inks(picture, heads(picture), 128 * _BLUR.get(picture.people[0][1].style, 0.0))
    return scene.text(size, people)


def _draw_person(ink: Ink, head: Head, light: skin.Light) -> None:
    tone = skin.skin_of(head)
    cut = hair.cut_of(head)
    ears = cut is None or cut.ears
    turned = abs(head.shot.yaw) > 9
    outline = smooth(head.face_outline(), tension=0.9)
    hair.draw_behind(ink, head)
    skin.draw_neck(ink, head, tone, light)
    clothing.draw_clothing(ink, head, tone, light)
    if ears:
        for side in (head.far,) if turned else (-1.0, 1.0):
            skin.draw_ear(ink, head, tone, side)
    skin.draw_face(ink, head, tone, light, outline)
    beard.draw_beard(ink, head)
    if turned:  # what lies on the far cheek ends at its edge
        ink.open_clip(outline)
    _draw_features(ink, head, tone, light)
    if turned:
        ink.close()
    hair.draw_cap(ink, head, light)
    if ears and turned:
        skin.draw_ear(ink, head, tone, -head.far)
    marks.draw_drops(ink, head)
    glasses.draw_glasses(ink, head)


def _draw_features(ink: Ink, head: Head, tone: skin.Skin, light: skin.Light) -> None:
    marks.draw_marks(ink, head, tone)
    marks.draw_lines(ink, head, tone)
    eyes.draw_eyes(ink, head, tone)
    nose.draw_nose(ink, head, tone, light)
    mouth.draw_mouth(ink, head, tone)
    beard.draw_moustache(ink, head)
    eyes.draw_brows(ink, head)


def _pixels(text: str, size: int) -> np.ndarray:
    """(size, size, 4) uint8 with straight alpha."""
    try:
        import resvg_py
    except ModuleNotFoundError as error:
        raise RuntimeError(
            "portraits are drawn by resvg_py: pip install resvg_py==0.5.0"
        ) from error
    png = resvg_py.svg_to_bytes(svg_string=text, width=size, height=size, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))


def _layers(picture: Picture, shown: list[Head], size: int) -> tuple[np.ndarray, np.ndarray]:
    """(size, size, 3) float32 0..1 of scene and people, and (size, size, 1) where the people are.

    A scene out of focus is drawn small and enlarged: that blurs it for a tenth of a filter's time.
    """
    blur = _BLUR.get(picture.people[0][1].style, 0.0)
    scene, people = _inks(picture, shown, 0.0)
    small = size if not blur else max(16, int(min(0.5, 0.0042 / blur) * size))
    behind = _pixels(scene.text(small), small)[..., :3].astype(np.float32) / 255
    if blur:
        behind = cv2.GaussianBlur(behind, (0, 0), blur * small)
        behind = cv2.resize(behind, (size, size), interpolation=cv2.INTER_CUBIC)
    front = _pixels(people.text(size), size).astype(np.float32) / 255
    alpha = front[..., 3:]
    return behind + (front[..., :3] - behind) * alpha, alpha


def face(head: Head, size: int = 128) -> Face:
    """Box and points of a head, in pixels of a picture of `size`."""
    eye = [eyes.Eye(head, side).centre for side in (-1.0, 1.0)]
    points = head.pose.project(np.concatenate([eye, [nose.tip(head)], mouth.corners(head)]))
    outline = head.visible_face()
    low, high = outline.min(0) * size / UNITS, outline.max(0) * size / UNITS
    box = tuple(float(value) for value in np.clip([*low, *high], 0, size))
    return Face(box, (points * size / UNITS).astype(np.float32))


def render(picture: Picture, size: int = 128) -> Rendered:
    """Draw a picture of size x size pixels. RuntimeError where resvg_py is not installed."""
    first = picture.people[0][1]
    shown = heads(picture)
    pixels, people = _layers(picture, shown, size)
    side = skin.light_of(first.light, first.variant).side
    image = styles.finish(pixels, people, first.style, first.light, side, first.variant)
    return Rendered(image, tuple(face(head, size) for head in shown))
