"""What a style and a light do to the drawn pixels."""

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

_TINT = {
    "soft": (1.0, 1.0, 1.0),
    "warm": (1.1, 0.94, 0.74),
    "cold": (0.82, 0.95, 1.14),
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


def _moved(image: np.ndarray, seed: int, coarse: int, reach: float) -> np.ndarray:
    """Pixels pushed about by noise; reach in pixels."""
    size = len(image)
    x, y = _grid(size)
    dx, dy = _noise(size, coarse, seed), _noise(size, coarse, seed + 50)
    return cv2.remap(
        image, x + reach * dx, y + reach * dy, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT
    )


def _blur(image: np.ndarray, deviation: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), deviation)


def _grey(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.299, 0.587, 0.114], np.float32)


def relight(image: np.ndarray, light: str, side: float) -> np.ndarray:
    """(size, size, 3) 0..1 float32 in the colour and direction of a light; side -1 left, 1 right."""
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
        out = out * np.clip(0.72 + 1.3 * toward, 0.13, 1.22)[..., None]
    return np.clip(out, 0, 1)


def _photo(image: np.ndarray, seed: int) -> np.ndarray:
    x, y = _grid(len(image))
    away = ((x / len(image) - 0.5) ** 2 + (y / len(image) - 0.5) ** 2)[..., None]
    return image * (1.03 - 0.3 * away)


def _sketch(image: np.ndarray, seed: int) -> np.ndarray:
    """Graphite: tone by hatching, lines by contrast, on grained paper."""
    size = len(image)
    unit = size / 128
    grey = _grey(_moved(image, 3, 24, 0.5 * unit))
    lines = np.clip(grey / (_blur(grey, 2.6 * unit) + 0.03), 0, 1) ** 1.5
    tone = np.clip(_blur(grey, 0.9 * unit) * 1.12, 0, 1)
    x, y = _grid(size)
    grain = _noise(size, min(size, int(100 * unit)), 5)
    wobble = 1.3 * _noise(size, 12, 9)
    for turn, depth, low in ((0.78, 0.34, 0.72), (2.2, 0.3, 0.42)):
        wave = np.sin(((x * np.cos(turn) + y * np.sin(turn)) / unit + wobble) * 2 * np.pi / 3.1)
        lines = lines - depth * np.clip((low - tone) * 2.4, 0, 1) * (0.5 + 0.5 * wave + 0.2 * grain)
    paper = 0.965 + 0.018 * grain
    out = paper * np.clip(0.2 + 0.8 * (0.76 * lines + 0.24 * tone), 0.1, 1)
    return out[..., None] * np.array([1.0, 0.985, 0.95], np.float32)


def _oil(image: np.ndarray, seed: int) -> np.ndarray:
    """Short strokes of thick colour on canvas."""
    size = len(image)
    unit = size / 128
    moved = _moved(image, 1 + seed % 3, 40, 0.75 * unit)
    window = 2 * int(round(1.2 * unit)) + 1
    flat = cv2.medianBlur((moved * 255).astype(np.uint8), window).astype(np.float32) / 255
    grey = _grey(flat)[..., None]
    flat = grey + (flat - grey) * 1.4
    flat = flat + (flat - _blur(flat, 1.6 * unit)) * 0.9
    flat = np.round(flat * 11) / 11 * 0.55 + flat * 0.45
    x, y = _grid(size)
    strokes = _moved(_noise(size, min(size, int(60 * unit)), 21)[..., None], 4, 9, 3.2 * unit)
    strokes = cv2.blur(strokes, (1, max(1, int(3 * unit))))
    canvas = np.sin(x / unit * 2.6) * np.sin(y / unit * 2.6)
    relief = 1 + 0.085 * np.reshape(strokes, (size, size)) + 0.028 * canvas
    return np.clip(flat, 0, 1) * relief[..., None] * np.array([1.0, 0.965, 0.9], np.float32)


def _comic(image: np.ndarray, seed: int) -> np.ndarray:
    """Few flat colours and dots in the shadows."""
    size = len(image)
    unit = size / 128
    smooth = cv2.bilateralFilter(image, 5, 0.12, 1.6 * unit)
    value = smooth.max(2, keepdims=True)
    steps = 4.0
    raised = value * steps
    near = np.floor(raised) + 0.5 + 0.5 * np.tanh((raised % 1 - 0.5) * 9)
    out = smooth * (near / steps / np.maximum(value, 0.02))
    mean = out.mean(2, keepdims=True)
    out = mean + (out - mean) * 1.35
    x, y = _grid(size)
    across, along = (x + y) / unit * 1.42, (x - y) / unit * 1.42
    dots = np.sin(across) * np.sin(along)
    dark = np.clip((0.62 - _blur(value[..., 0], 2 * unit)) * 1.7, 0, 0.75)
    print_ = np.clip((dots - 1 + 1.7 * dark) * 3, 0, 1)
    return np.clip(out * 1.05, 0, 1) * (1 - 0.3 * print_[..., None])


def _watercolour(image: np.ndarray, seed: int) -> np.ndarray:
    """Thin bleeding colour, dark where it dried, on white paper."""
    size = len(image)
    unit = size / 128
    moved = _moved(_moved(image, 7, 14, 0.8 * unit), 8, 44, 0.5 * unit)
    wash = cv2.bilateralFilter(moved, 7, 0.2, 2.2 * unit)
    grey = _grey(wash)
    dried = np.clip(_blur(grey, 1.7 * unit) - grey, 0, 0.2)
    bloom = 0.07 * _noise(size, 7, 30 + seed % 4) + 0.035 * _noise(
        size, min(size, int(70 * unit)), 34
    )
    thin = np.clip(0.8 + bloom, 0.45, 1)[..., None]
    out = 1 - (1 - wash**0.82) * thin
    out = out - 0.9 * dried[..., None]
    x, y = _grid(size)
    border = np.minimum(np.minimum(x, size - 1 - x), np.minimum(y, size - 1 - y)) / unit
    kept = np.clip((border + 3.2 * _noise(size, 12, 40 + seed % 4) - 5.5) / 3.0, 0, 1)[..., None]
    paper = np.array([0.99, 0.98, 0.955], np.float32)
    grain = 1 + 0.014 * _noise(size, min(size, int(110 * unit)), 6)[..., None]
    return (paper + (out - paper) * kept) * grain


_DRAW: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "photo": _photo,
    "sketch": _sketch,
    "oil": _oil,
    "comic": _comic,
    "watercolour": _watercolour,
}


def finish(image: np.ndarray, style: str, light: str, side: float, seed: int) -> np.ndarray:
    """(size, size, 3) uint8 as drawn -> uint8 in its light and style. Source: no file, all here."""
    lit = relight(image.astype(np.float32) / 255, light, side)
    done = _DRAW[style](lit, seed)
    return (np.clip(done, 0, 1) * 255 + 0.5).astype(np.uint8)
