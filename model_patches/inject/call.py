"""One model call, as injections see it: whose rows, what time, where tokens can attend, what is
added there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..gates.gate import Moment
from .attention import Activation
from .region import Grid

CALL = "flexid_call"
"""Key of the Call in transformer_options."""
WATCH = "flexid_watch"
"""Key in transformer_options of what watches a run; absent in ordinary sampling."""


@dataclass(frozen=True, order=True)
class Site:
    """One place in a model, by the names that ComfyUI gives its blocks."""

    kind: str
    """"double_block" or "single_block" of a Flux; "input", "middle" or "output" of a UNet."""
    number: int
    depth: int = 0
    """Transformer block within a UNet's block."""
    cell: int = 2
    """Latent pixels a side of one image token."""
    inside: bool = False
    """Whether it lies inside the attention, before the output projection."""

    def __str__(self) -> str:
        inner = f".{self.depth}" if self.depth else ""
        return f"{self.kind} {self.number}{inner}"


class Layer(Protocol):
    """One identity's attention at one site, such as a FoldedAttention."""

    def __call__(
        self, image: Tensor, weight: float | Tensor, activate: Activation | None
    ) -> Tensor:
        """image (R, L, D) -> weight × attention (R, L, D); see FoldedAttention."""
        ...


@dataclass(frozen=True, eq=False)
class Term:
    """What some rows and tokens receive from one identity, at every site it has a layer for."""

    layers: Mapping[Site, Layer]
    rows: slice
    index: Tensor | None
    """(K,) positions of the image tokens that are covered; None: all."""
    weight: float | Tensor
    """One number, or (rows or 1, tokens or 1)."""
    activate: Activation | None = None

    def residual(self, site: Site, image: Tensor) -> Tensor:
        """image (R, L, D), all rows -> this term's residual on its own rows and tokens."""
        image = image[self.rows]
        if self.index is not None:
            image = image.index_select(1, self.index)
        return self.layers[site](image, self.weight, self.activate)

    def add(self, image: Tensor, residual: Tensor) -> None:
        if self.index is None:
            image[self.rows] += residual
        else:
            image[self.rows].index_add_(1, self.index, residual)


Role = Literal["positive", "negative"]


@dataclass(frozen=True)
class PromptRows:
    """One prompt's share of the rows in a model call."""

    role: Role = "positive"
    area: tuple[int, ...] | None = None
    """(height, width, y, x) in latent pixels when the prompt covers only an area."""
    length: int = 0
    """Text tokens of the prompt; 0 where it has no text or no guider runs."""
    references: int = 0
    """Reference pictures that come with the prompt."""
    payloads: Mapping[str, Any] = field(default_factory=dict)
    """What an injection sends along with this prompt, by the injection's kind."""
    nobody: bool = False
    """Whether the prompt is predicted once more as if the anchors had nobody."""

    @property
    def has_person(self) -> bool:
        """Whether anchors give it their person, and not what a negative prompt gets."""
        return self.role == "positive" and not self.nobody


@dataclass
class Run:
    """Scratch of one sampling run."""

    latent_size: tuple[int, int] | None = None
    """Height and width of the whole latent; None outside a guider."""
    cache: dict[Any, Any] = field(default_factory=dict)
    """What injections compute once per run, keyed by themselves."""
    checked: bool = False
    """Whether the first model call has shown that every site runs."""


@dataclass(eq=False)
class Call:
    """One model call: its rows, its time, and what is added in it."""

    run: Run
    prompts: tuple[PromptRows, ...]
    moments: tuple[Moment, ...]
    """One per row; all equal in ordinary sampling."""
    latent_size: tuple[int, int]
    rows: int
    device: torch.device
    dtype: torch.dtype
    """The number format that the diffusion model computes in."""
    diffusion_model: Any = None
    """The network itself, with LoRA patches in its weights."""
    has_hooks: bool = False
    """Whether weight hooks of the call's prompts are in them: other prompts have other weights."""
    added: dict[Site, list[Term]] = field(default_factory=dict)
    """Terms by site, worked out before the blocks run."""
    visits: dict[Site, int] = field(default_factory=dict)
    """How often each site has run."""
    watch: Any = None
    """What the caller has put under WATCH: an injection may show it what it does."""
    uuids: tuple[Any, ...] = ()
    """ComfyUI's name of each prompt, the same in every call of a run; empty outside a guider."""

    @property
    def batch(self) -> int:
        """Rows per prompt."""
        return self.rows // len(self.prompts)

    def rows_of(self, number: int) -> slice:
        """Rows of the prompt of that number."""
        return slice(number * self.batch, (number + 1) * self.batch)

    def prompt_key(self, rows: slice) -> Any:
        """What tells the prompt of these rows from others of the run."""
        number = rows.start // self.batch
        return self.uuids[number] if self.uuids else number

    def grid(self, cell: int) -> Grid:
        """Image tokens at sites whose tokens are `cell` latent pixels a side."""
        height, width = self.latent_size
        return Grid(-(-height // cell), -(-width // cell), cell)
