"""What happens at a site while the model runs: look up the call's terms, add their residuals.

Nothing here is worked out or allocated but the residuals themselves: what varies from call to call
lies in the Call that run.py has put into transformer_options.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from .call import CALL, Call, Site, Term

Function = TypeVar("Function", bound=Callable[..., Any])


def keep_out_of_graphs(function: Function) -> Function:
    """As torch.compiler.disable, whose result has no type that a checker can read."""
    disabled: Any = torch.compiler.disable(function)
    return disabled


@keep_out_of_graphs
def visits_of(options: Mapping[str, Any], site: Site) -> int:
    """How often the site has run in this call."""
    call: Call | None = options.get(CALL)
    return 0 if call is None else call.visits.get(site, 0)


@keep_out_of_graphs
def inject_at(
    options: Mapping[str, Any],
    site: Site,
    image: Tensor,
    earlier: int | None = None,
    reads: Callable[[], Tensor] | None = None,
) -> None:
    """Add the call's residuals at `site` to the picture's tokens, in place.

    image (R, L, D) begins with those tokens; reference tokens may follow and are left alone.
    reads: makes what the terms attend from, where that is not `image` itself. earlier: visits
    before what is wrapped here ran. Where there are more by now, a wrapper inside has injected
    already, and nothing is added. Kept out of compiled graphs: ComfyUI drops guards on
    transformer_options there, so a gate that opens later would stay as it was when traced.
    """
    call: Call | None = options.get(CALL)
    if call is None:
        return
    visits = call.visits.get(site, 0)
    if earlier is not None and visits != earlier:
        return
    call.visits[site] = visits + 1
    terms = call.added.get(site)
    if terms is not None:
        tokens = call.grid(site.cell).tokens
        _check_tokens(call, site, image, tokens)
        picture = image[:, :tokens]
        add_terms(terms, site, picture, picture if reads is None else reads()[:, :tokens])


def _check_tokens(call: Call, site: Site, image: Tensor, tokens: int) -> None:
    if image.shape[1] < tokens:
        height, width = call.latent_size
        raise RuntimeError(
            f"The model has {image.shape[1]} image tokens at {site}, expected {tokens} for a "
            f"latent of {height}x{width}. Another node resizes tokens inside the model; remove or "
            "bypass it."
        )


def add_terms(terms: Sequence[Term], site: Site, image: Tensor, reads: Tensor) -> None:
    """All residuals are computed before any is added, so every term reads the same tokens."""
    for term, residual in [(term, term.residual(site, reads)) for term in terms]:
        term.add(image, residual)
    if image.dtype == torch.float16:  # as Flux itself guards its residual stream
        image.nan_to_num_(nan=0.0, posinf=65504, neginf=-65504)


def missed_sites(call: Call, sites: Collection[Site]) -> list[Site]:
    """The sites that have not run in this call."""
    return sorted(site for site in sites if not call.visits.get(site))
