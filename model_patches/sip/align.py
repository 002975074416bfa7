"""Bring the fuser's coordinates back to those of the text encoder: ridge regression, closed form.

For calibration prompts k the fuser without a face gives F_k, the text encoder E_k, token by token.
M minimises |E_k − F_k·M|² + λ|M|², both centred; then M carries a difference of fused prompts to
the text the model reads. λ is chosen on prompts that were held out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..files.atomic import replacing
from ..files.cache import tensor_key
from ..files.tensor_file import read_weights
from .faceclip import FaceClipProjector
from .projector import Prompt

PROMPTS = 400
HELD_OUT = 5
"""One prompt in five judges λ."""
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""λ in units of the mean variance of the fuser's channels."""
PROBE = "a photo of a person"
WANTED = "what the Align SIP Projector node wrote"
KEY = "flexid.alignment"
"""Metadata: which fuser, text encoder and prompts the matrices were fitted to."""


@dataclass(frozen=True, eq=False)
class Aligned:
    projector: FaceClipProjector
    report: str


def align(
    projector: FaceClipProjector, clip: Any, folder: str | Path, prompts: int = PROMPTS
) -> Aligned:
    """The projector with matrices to this CLIP's text, from `folder` or newly fitted into it.

    Fitting encodes and fuses `prompts` short prompts once per pair of files. A kept file that
    cannot be used is fitted again, and the report says so. Raises ValueError when the CLIP's text
    does not fit the projector, OSError when `folder` cannot be written.
    """
    probe = _encode(clip, PROBE)[0]
    key = f"{projector.model.digest[:16]}_{tensor_key(probe)[:16]}_{prompts}"
    path = Path(folder) / f"sip_alignment_{key}.safetensors"
    lines = []
    if path.is_file():
        widths = {tower.key: tower.width for tower, _ in projector.slices(Prompt(probe, PROBE))}
        try:
            kept = _read_matrices(path, key, widths)
            return Aligned(projector.with_alignment(kept), f"alignment read from {path.name}")
        except (ValueError, OSError) as error:
            lines.append(f"the kept alignment could not be used: {error}")
    fits = _fit(projector, clip, calibration_prompts(prompts))
    matrices = {name: fit.matrix for name, fit in fits.items()}
    with replacing(path) as part:
        save_file(matrices, part, {KEY: key})
    lines.append(f"alignment fitted on {prompts} prompts, kept in {path.name}")
    lines += [
        f"{name}: {fit.tokens} tokens, λ {fit.ridge:g}, explains {fit.explained:.1%} of the "
        "variance of held-out text"
        for name, fit in fits.items()
    ]
    return Aligned(projector.with_alignment(matrices), "\n".join(lines))


def _read_matrices(path: Path, key: str, widths: Mapping[str, int]) -> dict[str, Tensor]:
    """The matrices in a kept file, one of finite float32 numbers for each tower.

    Raises ValueError for anything else, OSError when the file cannot be read. Files of earlier
    versions do not state their key.
    """
    try:
        file = read_weights(path, WANTED)
    except ValueError as error:  # its later sentences tell how to download the file again
        raise ValueError(str(error).partition(". ")[0]) from error
    stated = file.metadata.get(KEY, key)
    if stated != key:
        raise ValueError(f"{path.name} was fitted to {stated[:80]}, expected {key}")
    found = {name: (tuple(t.shape), t.dtype) for name, t in file.tensors.items()}
    wanted = {name: ((width, width), torch.float32) for name, width in widths.items()}
    if found != wanted:
        raise ValueError(f"{path.name} holds {_describe(found)}, expected {_describe(wanted)}")
    for name, matrix in file.tensors.items():
        if not matrix.isfinite().all():
            raise ValueError(f"{path.name}: {name} has numbers that are not finite")
    return dict(file.tensors)


def _describe(matrices: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> str:
    """At most the first four."""
    first = list(matrices.items())[:4]
    named = [f"{name[:40]} {shape} {dtype}" for name, (shape, dtype) in first]
    return ", ".join(named) + ", ..." * (len(matrices) > 4) or "nothing"


def calibration_prompts(count: int) -> list[str]:
    """`count` distinct prompts, the same ones every time."""
    path = Path(__file__).with_name("calibration_prompts.json")
    lists = json.loads(path.read_text(encoding="utf-8"))
    frames = lists.pop("frames")
    random, found = Random(0), {}
    while len(found) < count:
        words = {name: random.choice(options) for name, options in lists.items()}
        found[random.choice(frames).format(**words)] = None
    return list(found)


def _encode(clip: Any, text: str) -> tuple[Tensor, Tensor]:
    """States (1, T, D) float32, and which tokens are words (T,) bool."""
    marked = clip.tokenize(text, return_word_ids=True)
    stream = next(name for name in ("t5xxl", "l", *marked) if name in marked)
    words = torch.tensor([word != 0 for chunk in marked[stream] for _, _, word in chunk])
    states = clip.encode_from_tokens(clip.tokenize(text))
    return states.detach().float().cpu(), words


@dataclass(frozen=True, eq=False)
class _Fit:
    matrix: Tensor
    ridge: float
    explained: float
    tokens: int


class _Sums:
    """First and second moments of token pairs (x, y), float64."""

    def __init__(self, width: int):
        self.n = 0
        self.x, self.y = torch.zeros(2, width, dtype=torch.float64)
        self.yy = 0.0
        self.xx = torch.zeros(width, width, dtype=torch.float64)
        self.xy = torch.zeros(width, width, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        x, y = x.double(), y.double()
        self.n += len(x)
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.yy += y.square().sum().item()
        self.xx += x.T @ x
        self.xy += x.T @ y

    def centre_moments(self) -> tuple[Tensor, Tensor, float]:
        """Covariances XX, XY and the total variance of y."""
        xx = self.xx / self.n - torch.outer(self.x, self.x) / self.n**2
        xy = self.xy / self.n - torch.outer(self.x, self.y) / self.n**2
        return xx, xy, self.yy / self.n - (self.y / self.n).square().sum().item()


def _pairs(
    projector: FaceClipProjector, clip: Any, texts: Sequence[str]
) -> Iterator[tuple[int, str, Tensor, Tensor]]:
    nobody = projector.nobody()
    for number, text in enumerate(texts):
        states, words = _encode(clip, text)
        prompt = Prompt(states, text)
        fused = projector.fuse(nobody, prompt)
        heard = words & fused.any(-1)[0]
        for tower, span in projector.slices(prompt):
            yield number, tower.key, fused[0, heard][:, span], states[0, heard][:, span]


def _fit(projector: FaceClipProjector, clip: Any, texts: Sequence[str]) -> dict[str, _Fit]:
    sums: dict[tuple[str, bool], _Sums] = {}
    for number, key, x, y in _pairs(projector, clip, texts):
        held = number % HELD_OUT == 0
        sums.setdefault((key, held), _Sums(x.shape[1])).add(x, y)
    return {key: _best(sums[key, False], sums[key, True]) for key, held in sums if held}


def _best(train: _Sums, test: _Sums) -> _Fit:
    xx, xy, _ = train.centre_moments()
    test_xx, test_xy, variance = test.centre_moments()
    unit = xx.diagonal().mean().clamp_min(1e-30)
    values, vectors = torch.linalg.eigh(xx)
    turned = vectors.T @ xy
    fits = []
    for ridge in RIDGES:
        matrix = vectors @ (turned / (values.clamp_min(0) + ridge * unit)[:, None])
        error = variance - 2 * (matrix * test_xy).sum() + (matrix * (test_xx @ matrix)).sum()
        explained = 1 - (error / max(variance, 1e-30)).item()
        fits.append(_Fit(matrix.float().contiguous(), ridge, explained, train.n))
    return max(fits, key=lambda fit: fit.explained)
