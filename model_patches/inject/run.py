"""What every injection must know of a sampling run: which rows are whose, and what time it is.

Two public wrappers do it. One, around the whole run, marks every conditioning entry with its role
and opens a Run, which dies with the run. The other, around each model call, reads both back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import comfy.patcher_extension
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..gates.clock import Clock
from ..gates.gate import Moment

RUN = "flexid_run"
CHUNK = "flexid_chunk"
CALL = "flexid_call"

Role = Literal["positive", "negative"]


@dataclass(frozen=True)
class Chunk:
    """One prompt's share of the rows in a model call."""

    role: Role
    area: tuple[int, ...] | None = None
    """(height, width, y, x) in latent pixels when the prompt covers only an area."""


@dataclass(frozen=True)
class ChunkCond:
    """Carries a Chunk through ComfyUI's batching of prompts (the comfy.conds protocol).

    `cond_or_uncond` cannot tell positive from negative: its meaning depends on the guider. The
    name under which the guider holds the entry can, and `model_conds` follow the entry.
    """

    chunk: Chunk

    def process_cond(self, batch_size: int, area: list[int] | None = None, **_: Any) -> ChunkCond:
        return ChunkCond(replace(self.chunk, area=tuple(area) if area is not None else None))

    def can_concat(self, other: ChunkCond) -> bool:
        return True

    def concat(self, others: list[ChunkCond]) -> list[Chunk]:
        return [self.chunk, *(other.chunk for other in others)]

    def size(self) -> list[int]:
        return [1]


@dataclass
class Run:
    """Scratch of one sampling run."""

    latent_size: tuple[int, int] | None = None
    """Height and width of the whole latent; None outside a guider."""
    cache: dict[Any, Any] = field(default_factory=dict)
    """What injections compute once per run, keyed by themselves."""
    reached: bool = False
    """Whether any patched block has run."""


def open_run(executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE wrapper. The guider's conds and model_options are per-run copies by now."""
    guider = executor.class_obj
    for name, conds in guider.conds.items():
        role: Role = "negative" if "negative" in name else "positive"
        for cond in conds:
            cond["model_conds"] = {**cond.get("model_conds", {}), CHUNK: ChunkCond(Chunk(role))}
    size = (noise.shape[-2], noise.shape[-1])
    guider.model_options["transformer_options"][RUN] = Run(size)
    return executor(noise, *args, **kwargs)


@dataclass(frozen=True)
class Call:
    """One model call: its rows and its time."""

    run: Run
    chunks: tuple[Chunk, ...]
    moments: tuple[Moment, ...]
    """One per row; all equal in ordinary sampling."""
    latent_size: tuple[int, int]
    rows: int
    device: torch.device
    dtype: torch.dtype
    """What the diffusion model computes in."""

    @property
    def batch(self) -> int:
        """Rows per chunk."""
        return self.rows // len(self.chunks)


def read_call(base_model: Any, x: Tensor, t: Tensor, options: dict, conds: dict) -> Call:
    """Take the marks out of a model call. Costs one device read per call, none per block.

    x (R, C, h, w) latent, t (R,) sigmas. Removes CHUNK from `conds` and leaves what it read in
    `options`, which the wrapper hands on: whichever injection comes next finds it there.
    """
    marks = conds.pop(CHUNK, None)
    known_t, known = options.get(CALL, (None, None))
    if marks is None and known is not None:
        if known_t is t and (known.rows, known.latent_size) == (x.shape[0], x.shape[-2:]):
            return known
        marks = known.chunks
    call = _read(base_model, x, t, options, marks)
    options[CALL] = (t, call)
    return call


def _read(base_model: Any, x: Tensor, t: Tensor, options: dict, marks: Any) -> Call:
    run = options.get(RUN) or Run()
    chunks = marks or _chunks_by_index(options.get("cond_or_uncond"))
    moments = _moments(run, base_model.model_sampling, t.tolist(), options.get("sample_sigmas"))
    size = (x.shape[-2], x.shape[-1])
    dtype = base_model.get_dtype_inference()
    return Call(run, tuple(chunks), moments, size, x.shape[0], x.device, dtype)


def _chunks_by_index(cond_or_uncond: list[int] | None) -> list[Chunk]:
    """Outside a guider the only hint is the index: 0 is the prompt, 1 its negative."""
    return [Chunk("negative" if index == 1 else "positive") for index in cond_or_uncond or [0]]


def _moments(run: Run, sampling: Any, sigmas: list[float], schedule: Any) -> tuple[Moment, ...]:
    if "clock" not in run.cache:
        steps = () if schedule is None else tuple(schedule.tolist())
        run.cache["clock"] = Clock(sampling.percent_to_sigma, steps)
    known: dict[float, Moment] = run.cache.setdefault("moments", {})
    for sigma in sigmas:
        if sigma not in known:
            known[sigma] = run.cache["clock"].moment(sigma)
    return tuple(known[sigma] for sigma in sigmas)


def watch_run(model: ModelPatcher, key: str, on_call: Callable[..., Any]) -> None:
    """Register both wrappers on a clone: `on_call` once under `key`, `open_run` once at all."""
    outer, apply = (
        comfy.patcher_extension.WrappersMP.OUTER_SAMPLE,
        comfy.patcher_extension.WrappersMP.APPLY_MODEL,
    )
    if not model.get_wrappers(outer, RUN):
        model.add_wrapper_with_key(outer, RUN, open_run)
    if not model.get_wrappers(apply, key):
        model.add_wrapper_with_key(apply, key, on_call)
