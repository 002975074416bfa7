"""Write the part of a FaceCLIP file that FlexID reads: safetensors, 2 GB instead of 12.5 GB."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from torch import Tensor

from ..files.atomic import converting
from ..files.checks import shapes_of
from .faceclip import open_parts
from .faceclip_fuser import fuser_dims

PREFIXES = {"t5": "encoder_2.", "l": "face_clip_l.", "g": "face_clip_g."}
_NEVER_READ = ("mask_token", "num_batches_tracked", "logit_scale", "logit_bias", "text_projection")


def convert_faceclip(source: str | Path, target: str | Path) -> Path:
    """Write `target` with the published key names, dtypes and values; returns its path.

    Dropped: T5, CLIP-L, the face encoder's head (FaceT5), and the fuser tensors that never reach
    the text. The face layers' packed projections keep their value third. Written beside the target
    and moved there when whole; nothing is overwritten. Raises FileNotFoundError, FileExistsError,
    ValueError (not a FaceCLIP file, or the target is the source), OSError.
    """
    source, target = Path(source), Path(target)
    with converting(source, target) as temporary:
        kept = {
            PREFIXES[key] + name: tensor
            for key, part in open_parts(source).items()
            for name, tensor in _select_needed(key, part, source.name).items()
        }
        safetensors.torch.save_file(kept, temporary, {"flexid.converted_from": source.name})
    return target


def _select_needed(key: str, part: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    dims = fuser_dims(shapes_of(part), what, "the unmodified file")
    last = dims.stages - 1
    dead = (
        f"fuser.encoder.layers.{last}.",
        f"fuser.encoder.fusion_layers.{last}.attn.values_l_proj.",
        f"fuser.encoder.fusion_layers.{last}.attn.out_v_proj.",
        f"fuser.encoder.fusion_layers.{last}.gamma_v",
        "fuser.enc_output",
        *(("face_encoder.feature.", "face_pos_proj.") if key == "t5" else ()),
    )
    kept = {}
    for name, tensor in part.items():
        if name.startswith(dead) or name.endswith(_NEVER_READ):
            continue
        if ".layers." in name and ".in_proj_" in name and tensor.ndim:
            tensor = tensor[-dims.width :]
        kept[name] = tensor.contiguous().clone()
    return kept
