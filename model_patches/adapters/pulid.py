"""Open a PuLID file, for whichever kind of model it was made."""

from __future__ import annotations

from pathlib import Path

from ..files.kinds import find_kind
from ..files.tensor_file import read_weights
from . import pulid_flux, pulid_sdxl

PulidAdapter = pulid_flux.IdentityAdapter | pulid_sdxl.SdxlAdapter
WANTED = f"{pulid_flux.WANTED}; for SDXL {pulid_sdxl.WANTED}"


def load_identity_adapter(path: str | Path) -> PulidAdapter:
    """A PuLID file for Flux or SDXL, told by its tensors. Raises FileNotFoundError or ValueError,
    as the two loaders do."""
    kind = find_kind(read_weights(path, WANTED).shapes)
    if kind is not None and kind.key in pulid_sdxl.KINDS:
        return pulid_sdxl.load_sdxl_adapter(path)
    return pulid_flux.load_adapter(path)
