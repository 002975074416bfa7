"""What a style and a light do to the drawn pixels."""

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

_TINT = {
    "soft": (1.0, 1.0, 1.0),
    "warm": (1.1, 0.94, 0.74),
    "cold": (0.86, 0.97, 1.12),
    "dramatic": (0.98, 0.95, 0.95),
}


@lru_cache(maxsize=32)
def _noise(size: int, coarse: int, seed: int) -> np.ndarray:
    """(size, size) float32 smooth noise about 0 with unit deviation, `coarse` cells a side."""
    grid = np.random.default_rng([17, seed]).normal(size=(coarse, coarse)).astype(np.float32)
    field = cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return field / field.std()


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of every pixel, float32."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    return x, y


def _move_pixels(
    image: np.ndarray, seed: int, coarse: int, reach: np.ndarray | float
) -> np.ndarray:
    """Pixels pushed about by noise; reach in pixels, one number or (size, size)."""
    size = len(image)
    x, y = _grid(size)
    dx, dy = _noise(size, coarse, seed), _noise(size, coarse, seed + 50)
    edge = cv2.BORDER_REFLECT
    return cv2.remap(image, x + reach * dx, y + reach * dy, cv2.INTER_LINEAR, None, edge)


def _blur(image: np.ndarray, deviation: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), deviation)


def _grey(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.299, 0.587, 0.114], np.float32)


def relight(image: np.ndarray, light: str, side: float) -> np.ndarray:
    """(size, size, 3) 0..1 float32 in the colour and direction of a light from side -1 or 1."""
    size = len(image)
    x, y = _grid(size)
    toward = (x / size - 0.5) * side
    out = image * np.array(_TINT[light], np.float32)
    if light == "warm":
        glow = np.clip(0.55 + toward - 0.45 * (y / size), 0, 1)[..., None]
        out = out + 0.26 * glow * np.array([1.0, 0.55, 0.12], np.float32)
    elif light == "cold":
        out = out * 0.95 + np.array([0.0, 0.02, 0.06], np.float32)
    elif light == "dramatic":
        out = out * np.clip(0.7 + 1.15 * toward, 0.16, 1.12)[..., None]
    return np.clip(out, 0, 1)


def _photo(image: np.ndarray, people: np.ndarray, seed: int) -> np.ndarray:
    x, y = _grid(len(image))
    away = ((x / len(image) - 0.5) ** 2 + (y / len(image) - 0.5) ** 2)[..., None]
    return image * (1.03 - 0.3 * away)


def _sketch(image: np.ndarray, people: np.ndarray, seed: int) -> np.ndarray:
    """Graphite: tone by hatching, lines by contrast, on grained paper; the scene is lighter."""
    size = len(image)
    unit = size / 128
    grey = _grey(_move_pixels(image, 3, 24, 0.4 * unit))
    grey = grey + (1 - people[..., 0]) * (0.42 - 0.42 * grey)
    lines = np.clip(grey / (_blur(grey, 2.6 * unit) + 0.03), 0, 1) ** 1.6
    tone = np.clip(_blur(grey, 0.8 * unit) * 1.15, 0, 1)
    x, y = _grid(size)
    grain = _noise(size, min(size, int(100 * unit)), 5)
    wobble = 1.3 * _noise(size, 12, 9)
    for turn, depth, low in ((0.78, 0.32, 0.66), (2.2, 0.26, 0.36)):
        wave = np.sin(((x * np.cos(turn) + y * np.sin(turn)) / unit + wobble) * 2 * np.pi / 3.3)
        lines = lines - depth * np.clip((low - tone) * 2.4, 0, 1) * (
            0.55 + 0.45 * wave + 0.2 * grain
        )
    paper = 0.965 + 0.016 * grain
    out = paper * np.clip(0.16 + 0.84 * (0.7 * lines + 0.3 * tone), 0.1, 1)
    return out[..., None] * np.array([1.0, 0.985, 0.95], np.float32)


def _oil(image: np.ndarray, people: np.ndarray, seed: int) -> np.ndarray:
    """Strokes of thick colour on canvas, finer on the people."""
    size = len(image)
    unit = size / 128
    fine = 1 - 0.72 * people
    moved = _move_pixels(image, 1 + seed % 3, 40, unit * fine[..., 0])
    window = 2 * max(1, round(1.1 * unit)) + 1
    flat = cv2.medianBlur((moved * 255).astype(np.uint8), window).astype(np.float32) / 255
    flat = flat + (moved - flat) * 0.55 * people
    grey = _grey(flat)[..., None]
    flat = grey + (flat - grey) * 1.35
    flat = flat + (flat - _blur(flat, 1.6 * unit)) * 0.8
    flat = np.round(flat * 10) / 10 * 0.5 + flat * 0.5
    x, y = _grid(size)
    canvas = np.sin(x / unit * 2.6) * np.sin(y / unit * 2.6)
    relief = 1 + (0.12 * fine[..., 0] + 0.02) * _strokes(size) + 0.026 * canvas
    warm = np.array([1.0, 0.965, 0.9], np.float32)
    return np.clip(flat, 0, 1) * relief[..., None] * warm


@lru_cache(maxsize=8)
def _strokes(size: int) -> np.ndarray:
    """(size, size) the relief of a brush: streaks that bend."""
    unit = size / 128
    streaks = cv2.blur(_noise(size, min(size, int(90 * unit)), 21), (max(1, int(5 * unit)), 1))
    return _move_pixels(streaks / streaks.std(), 4, 7, 5 * unit)


def _comic(image: np.ndarray, people: np.ndarray, seed: int) -> np.ndarray:
    """Few flat colours and dots in the shadows."""
    size = len(image)
    unit = size / 128
    value = np.maximum(image.max(2, keepdims=True), 0.02)
    raised = value * 4
    near = np.floor(raised) + 0.5 + 0.5 * np.tanh((raised % 1 - 0.5) * 9)
    out = image * (0.35 + 0.65 * near / raised)
    mean = out.mean(2, keepdims=True)
    out = np.clip((mean + (out - mean) * 1.4) * 1.08, 0, 1)
    x, y = _grid(size)
    dots = np.sin((x + y) / unit * 1.1) * np.sin((x - y) / unit * 1.1)
    dark = np.clip((0.66 - _blur(value, 2.2 * unit)) * 1.6, 0, 0.7)
    print_ = np.clip((dots - 0.95 + 1.7 * dark) * 3, 0, 1)
    return out * (1 - 0.28 * print_[..., None])


def _watercolour(image: np.ndarray, people: np.ndarray, seed: int) -> np.ndarray:
    """Thin bleeding colour, dark where it dried, on white paper."""
    size = len(image)
    unit = size / 128
    fine = 1 - 0.75 * people[..., 0]
    moved = _move_pixels(_move_pixels(image, 7, 14, 1.2 * unit * fine), 8, 44, 0.7 * unit * fine)
    wash = cv2.GaussianBlur(moved, (0, 0), 1.3 * unit)
    wash = wash + (moved - wash) * (0.15 + 0.65 * people)
    grey = _grey(wash)
    dried = np.clip(_blur(grey, 1.9 * unit) - grey, 0, 0.25)[..., None]
    grey = grey[..., None]
    wash = grey + (wash - grey) * 1.2
    bloom = 0.09 * _noise(size, 6, 30 + seed % 4)
    bloom = bloom + 0.03 * _noise(size, min(size, int(70 * unit)), 34)
    thin = np.clip(0.78 + (0.4 + 0.6 * fine) * bloom, 0.45, 1)[..., None] + 0.12 * people
    out = 1 - (1 - np.clip(wash, 0, 1) ** 0.85) * thin - 1.1 * dried
    x, y = _grid(size)
    border = np.minimum(np.minimum(x, size - 1 - x), np.minimum(y, size - 1 - y)) / unit
    kept = np.clip((border + 3 * _noise(size, 12, 40 + seed % 4) - 5) / 3, 0, 1)[..., None]
    paper = np.array([0.99, 0.98, 0.955], np.float32)
    grain = 1 + 0.012 * _noise(size, min(size, int(110 * unit)), 6)[..., None]
    return (paper + (out - paper) * kept) * grain


_DRAW: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "photo": _photo,
    "sketch": _sketch,
    "oil": _oil,
    "comic": _comic,
    "watercolour": _watercolour,
}


def finish(
    image: np.ndarray, people: np.ndarray, style: str, light: str, side: float, seed: int
) -> np.ndarray:
    """Bring a drawing into its light and style.

    image (size, size, 3) and people (size, size, 1), 1 where somebody is, are float32 0..1; side
    -1 or 1 is where the light comes from; seed varies what the style leaves to chance. Returns
    uint8 (size, size, 3).
    """
    done = _DRAW[style](relight(image, light, side), people, seed)
    return (np.clip(done, 0, 1) * 255 + 0.5).astype(np.uint8)
