"""Visual Feature Anchor (FlexID, section 3.3): identity cross-attention inside a Flux DiT.

After the blocks that PuLID-FLUX was trained for, image tokens attend to the identity:
img ← img + w(t)·CrossAttention(img, identity). All anchors of a block read the same tokens, so
their order in the graph does not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..adapters.pulid_flux import IdentityAdapter
from ..gates.gate import OPEN, Gate
from ..identity.identity import Identity
from .attention import folded_for
from .flux import anchor_blocks
from .region import EVERYWHERE, Coverage, check_mask, cover
from .run import Call, Chunk, read_call, watch_run

VFA = "flexid_vfa"

Negative = Literal["unconditional", "same", "none"]
NEGATIVES: tuple[Negative, ...] = ("unconditional", "same", "none")


@dataclass(frozen=True, eq=False)
class Anchor:
    """One identity on one model. Lives in the model's patch lists, where ComfyUI finds models()."""

    positive: ModelPatcher
    negative: ModelPatcher | None
    strength: float
    gate: Gate
    mask: Tensor | None

    def models(self) -> list[ModelPatcher]:
        negative = [] if self.negative in (None, self.positive) else [self.negative]
        return [self.positive, *negative]

    def to(self, device_or_dtype: Any) -> Anchor:
        # The folded weights belong to ComfyUI's model management, the mask is moved per run.
        return self

    def terms(self, call: Call) -> list[Term]:
        """What this anchor adds in one model call; nothing while its gate is closed."""
        weights = [self.strength * self.gate.weight(moment) for moment in call.moments]
        if not any(weights):
            return []
        return [
            term
            for number, chunk in enumerate(call.chunks)
            if (term := self._term(call, chunk, number, weights)) is not None
        ]

    def _term(self, call: Call, chunk: Chunk, number: int, weights: list[float]) -> Term | None:
        stack = self.positive if chunk.role == "positive" else self.negative
        coverage = self._coverage(call, chunk)
        rows = slice(number * call.batch, (number + 1) * call.batch)
        if stack is None or coverage is None:
            return None
        return Term(stack.model, rows, coverage.index, _scale(weights[rows], coverage, call))

    def _coverage(self, call: Call, chunk: Chunk) -> Coverage | None:
        if self.mask is None:
            return EVERYWHERE
        key = (VFA, self, chunk.area, call.latent_size, call.batch)
        if key not in call.run.cache:
            _check_tiles(call, chunk)
            size = call.run.latent_size or call.latent_size
            coverage = cover(self.mask, size, chunk.area, call.batch)
            call.run.cache[key] = coverage and _moved(coverage, call)
        return call.run.cache[key]


def _check_tiles(call: Call, chunk: Chunk) -> None:
    """A part of the picture whose place nobody told us cannot be masked."""
    whole = call.run.latent_size
    if chunk.area is None and whole not in (None, call.latent_size):
        raise ValueError(
            f"Apply VFA has a mask for a latent of {whole[0]}x{whole[1]}, but another node runs "
            f"the model on tiles of {call.latent_size[0]}x{call.latent_size[1]} without saying "
            "where. Disconnect the mask, or remove the tiling node."
        )


def _moved(coverage: Coverage, call: Call) -> Coverage:
    index, weights = coverage.index, coverage.weights
    return Coverage(
        index if index is None else index.to(call.device),
        weights if weights is None else weights.to(call.device, call.dtype),
    )


def _scale(weights: list[float], coverage: Coverage, call: Call) -> float | Tensor:
    """One factor for every row and token when there is one, else a (rows or 1, tokens or 1)."""
    if len(set(weights)) == 1:
        return weights[0] if coverage.weights is None else coverage.weights * weights[0]
    per_row = torch.tensor(weights, device=call.device, dtype=call.dtype).unsqueeze(1)
    return per_row if coverage.weights is None else coverage.weights * per_row


@dataclass(frozen=True, eq=False)
class Term:
    """One anchor on the rows of one prompt."""

    stack: nn.ModuleList
    rows: slice
    index: Tensor | None
    scale: float | Tensor

    def residual(self, layer: int, image: Tensor) -> Tensor:
        """image (R, L, D), all rows -> this term's residual on its own rows and tokens."""
        image = image[self.rows]
        if self.index is not None:
            image = image.index_select(1, self.index)
        return self.stack[layer](image, self.scale)

    def add(self, image: Tensor, residual: Tensor) -> None:
        if self.index is None:
            image[self.rows] += residual
        else:
            image[self.rows].index_add_(1, self.index, residual)


class Step:
    """All terms of one model call; blocks find it in their transformer_options."""

    def __init__(self, terms: list[Term], tokens: int):
        self.terms = terms
        self.tokens = tokens
        self.hits = 0

    def inject(self, layer: int, sequence: Tensor, start: int) -> None:
        """Add every residual to the generated picture's tokens, in place.

        sequence (R, S, D) holds them from `start` on; Kontext reference tokens follow them.
        """
        image = sequence[:, start : start + self.tokens]
        for term, residual in [(term, term.residual(layer, image)) for term in self.terms]:
            term.add(image, residual)
        if image.dtype == torch.float16:  # as Flux itself guards its residual stream
            image.nan_to_num_(nan=0.0, posinf=65504, neginf=-65504)
        self.hits += 1


@torch.compiler.disable
def _inject(options: dict, layer: int, sequence: Tensor, start: int) -> None:
    """Kept out of compiled graphs: ComfyUI drops guards on transformer_options there, so a gate
    that opens later would stay as it was when the graph was traced."""
    step: Step | None = options.get(VFA)
    if step is not None:
        step.inject(layer, sequence, start)


class AnchoredBlock:
    """A patches_replace entry: runs the block, or whatever already owned it, then injects."""

    def __init__(self, layer: int, previous: Callable | None):
        self.layer = layer
        self.previous = previous

    def __call__(self, args: dict, extra: dict) -> dict:
        out = self.previous(args, extra) if self.previous else extra["original_block"](args)
        options = args["transformer_options"]
        start = 0 if "txt" in out else options["img_slice"][0]
        _inject(options, self.layer, out["img"], start)
        return out

    def to(self, device_or_dtype: Any) -> AnchoredBlock:
        if not hasattr(self.previous, "to"):
            return self
        return AnchoredBlock(self.layer, self.previous.to(device_or_dtype))

    def models(self) -> list[ModelPatcher]:
        return self.previous.models() if hasattr(self.previous, "models") else []

    def cleanup(self) -> None:
        if hasattr(self.previous, "cleanup"):
            self.previous.cleanup()


def anchored_call(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None = None,
    c_crossattn: Tensor | None = None,
    control: Any = None,
    transformer_options: dict | None = None,
    **conds: Any,
) -> Tensor:
    """APPLY_MODEL wrapper: works out this call's terms, once, outside the blocks."""
    options = dict(transformer_options or {})
    call = read_call(executor.class_obj, x, t, options, conds)
    anchors: list[Anchor] = options.get("patches", {}).get(VFA, [])
    terms = [term for anchor in anchors for term in anchor.terms(call)]
    step = None
    if terms:
        height, width = call.latent_size
        step = options[VFA] = Step(terms, ((height + 1) // 2) * ((width + 1) // 2))
    out = executor(x, t, c_concat, c_crossattn, control, options, **conds)
    if step is not None:
        _check_reached(call, step)
    return out


def _check_reached(call: Call, step: Step) -> None:
    """A later call may be served by a cache such as EasyCache; the first one never is."""
    call.run.reached = call.run.reached or step.hits > 0
    if not call.run.reached:
        raise RuntimeError(
            "Apply VFA was active but 0 of its patched blocks ran: another node replaced the "
            "model's forward or took over its blocks. Remove or bypass that node, or place Apply "
            "VFA after it."
        )


def apply_vfa(
    model: ModelPatcher,
    adapter: IdentityAdapter,
    identity: Identity,
    *,
    strength: float = 1.0,
    gate: Gate = OPEN,
    mask: Tensor | None = None,
    negative: Negative = "unconditional",
) -> ModelPatcher:
    """A clone of a Flux.1 model that draws `identity`.

    mask (H, W) or (B, H, W) in [0, 1] over the picture: only covered tokens are computed.
    negative: what rows of the negative prompt get: the encoder's answer to no identity (as the
    PuLID authors do under true CFG), the same identity, or nothing.
    Raises ValueError when model, adapter, identity or mask do not fit each other.
    """
    blocks = anchor_blocks(model, adapter)
    tokens = identity_tokens(identity.tokens, adapter)
    mask = None if mask is None else check_mask(mask)
    patched = model.clone()
    if strength == 0.0 or (mask is not None and not mask.any()):
        return patched
    dtype = model.model.get_dtype_inference()
    positive = folded_for(adapter, tokens, dtype)
    folded = {"same": positive, "none": None}
    if negative == "unconditional":
        unconditional = identity_tokens(identity.unconditional, adapter)
        folded["unconditional"] = folded_for(adapter, unconditional, dtype)
    anchor = Anchor(positive, folded[negative], strength, gate, mask)
    patched.set_model_patch(anchor, VFA)
    watch_run(patched, VFA, anchored_call)
    _anchor(patched, blocks)
    return patched


def _anchor(patched: ModelPatcher, blocks: list[tuple[str, int]]) -> None:
    """Wrap each block's owner, once per model: the blocks only look up the call's Step."""
    options = patched.model_options["transformer_options"]
    if len(options["patches"][VFA]) > 1:
        return
    owners = options.get("patches_replace", {}).get("dit", {})
    for layer, (kind, number) in enumerate(blocks):
        block = AnchoredBlock(layer, owners.get((kind, number)))
        patched.set_model_patch_replace(block, "dit", kind, number)


def identity_tokens(tokens: Any, adapter: IdentityAdapter) -> Tensor:
    """The tokens made for this adapter's family, (1, N, C); raises when there are none."""
    found = tokens.get(adapter.family)
    if found is None:
        have = ", ".join(sorted(tokens)) or "none"
        raise ValueError(
            f"The identity has tokens for: {have}; the adapter '{adapter.name}' needs "
            f"{adapter.family}. Encode the photo with this adapter (Encode Identity)."
        )
    if found.shape[-1] != adapter.token_dim:
        raise ValueError(
            f"The identity's tokens are {found.shape[-1]} wide; the adapter '{adapter.name}' "
            f"reads {adapter.token_dim}. Encode the photo with this adapter (Encode Identity)."
        )
    return found
