"""Seconds spent inside injections. The only file of the benchmark that knows how they are built."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import comfy.patcher_extension
from comfy.model_patcher import ModelPatcher
from flexid.mini import tiny_flux
from flexid.model_patches.inject import sip, sites
from flexid.model_patches.inject.run import injections_of
from torch.utils._python_dispatch import TorchDispatchMode

from .clock import now

SYNCS = {"_local_scalar_dense", "nonzero", "item"}
"""Operations that make the processor wait for a GPU."""


@dataclass
class Inside(TorchDispatchMode):
    """What happened inside the sites of a step."""

    times: list[float] = field(default_factory=list)
    syncs: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.syncs += func.__name__.split(".")[0] in SYNCS
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def watch_sites() -> Iterator[Inside]:
    """Count while the body samples."""
    inside, add_terms = Inside(), sites.add_terms

    def time_terms(*args):
        started = now()
        with inside:
            add_terms(*args)
        inside.times.append(now() - started)

    sites.add_terms = time_terms
    try:
        yield inside
    finally:
        sites.add_terms = add_terms


def folded_model(patched: ModelPatcher) -> object:
    """The folded layers that Apply VFA put into the model."""
    return injections_of(patched.model_options["transformer_options"])[0].positive.model


@lru_cache(1)
def _small_model(text_width: int, pooled: int) -> ModelPatcher:
    return tiny_flux.flux(context_in_dim=text_width, vec_in_dim=pooled)


def residual_seconds(conditioning: list, steps: int) -> list[float]:
    """Seconds of SIP's wrapper alone, in each step but the first of a run of a tiny Flux.

    The text has its real size; the model behind the wrapper does not matter to it.
    """
    text, extra = conditioning[0]
    small = _small_model(text.shape[-1], extra["pooled_output"].shape[-1])
    watched = sip.follow(small)
    inner: list[float] = []
    seconds: list[float] = []

    def outside(executor, *args, **kwargs):
        started = now()
        out = executor(*args, **kwargs)
        seconds.append(now() - started - inner.pop())
        return out

    def within(executor, *args, **kwargs):
        started = now()
        out = executor(*args, **kwargs)
        inner.append(now() - started)
        return out

    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    ours = watched.wrappers.pop(kind)
    watched.add_wrapper_with_key(kind, "outside", outside)
    for key, wrappers in ours.items():
        for wrapper in wrappers:
            watched.add_wrapper_with_key(kind, key, wrapper)
    watched.add_wrapper_with_key(kind, "within", within)
    tiny_flux.sample(watched, positive=conditioning, negative=conditioning, steps=steps)
    return seconds[1:]
