"""The small world's semantic projector while it is trained, and the FaceT5 file it becomes.

The pack's own face encoder and fuser, built to be trained, and the pack's own difference, norm
matching and sum. So what is trained is what runs.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ...model_patches.encoders.faceclip_fuser import Fuser, FuserDims
from ...model_patches.encoders.faceclip_vit import IMAGE, FaceVit, VitDims
from ...model_patches.sip.residual import add, match_norms
from ...model_patches.training.export import write_torch
from ..random_faceclip import sinusoid

PREFIX = "encoder_2."
POSITIONS = 512
FACE = VitDims(width=96, depth=4, mlp=384, patch=9, tokens=144, output=0)


def fuser_of(width: int) -> FuserDims:
    """For a T5 of that width."""
    return FuserDims(
        width=width,
        face=FACE.width,
        inner=64,
        text_ffn=2 * width,
        face_ffn=2 * width,
        stages=2,
        positions=POSITIONS,
        deformable=False,
    )


def face_encoder() -> FaceVit:
    """One to be trained."""
    face = FaceVit(FACE).requires_grad_(True)
    with torch.no_grad():  # the pack leaves it empty because it loads it
        nn.init.normal_(face.pos_embed, std=0.02)
    return face


class Projector(nn.Module):
    """Face and prompt -> the direction on the prompt's text, and the text with it."""

    def __init__(self, width: int, face: FaceVit | None = None) -> None:
        """Without `face` with a new one."""
        super().__init__()
        self.face = face or face_encoder()
        self.fuser = Fuser(fuser_of(width)).requires_grad_(True)
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """What the pack leaves empty because it loads it."""
        for name, parameter in self.fuser.named_parameters():
            if "gamma_" in name:
                nn.init.ones_(parameter)
        width = self.fuser.dims.width
        self.fuser.positional_embedding.copy_(sinusoid(POSITIONS, width))
        self.fuser.positional_embedding.requires_grad_(False)

    def patches(self, pixels: Tensor) -> Tensor:
        """(B, 3, 112, 112) RGB in [0, 1] -> (B, 144, C)."""
        return self.face(pixels)[0]

    def direction(self, patches: Tensor, text: Tensor) -> Tensor:
        """F(E, face) - F(E, nobody), (B, T, D). Outside of autocast: it is a small difference."""
        nobody = self.patches(torch.zeros(1, 3, IMAGE, IMAGE, device=text.device))
        with torch.autocast(text.device.type, enabled=False):
            text = text.float()
            return self.fuser(text, patches.float()) - self.fuser(text, nobody.float())

    def add_direction(self, patches: Tensor, text: Tensor, scope: Tensor, alpha: Tensor) -> Tensor:
        """E' = E + α·Δ for text (B, T, D), scope (B, T) bool, alpha (B,)."""
        direction = self.direction(patches, text) * scope[..., None]
        everywhere = torch.ones(text.shape[1], dtype=torch.bool, device=text.device)
        return add(text, match_norms(direction, text, everywhere), alpha[:, None, None])


def write_face_t5(projector: Projector, path: Path) -> None:
    """A torch file in FaceT5's key names, bfloat16, without the tensors that never reach the text.

    As in files of Convert FaceCLIP, the face layers' packed projections hold their value alone.
    """
    state = {f"face_encoder.{k}": v for k, v in projector.face.state_dict().items()}
    fuser = projector.fuser.state_dict()
    packed = (".self_attn.qk.", ".self_attn.v.")
    state |= {k: v for k, v in fuser.items() if not any(part in k for part in packed)}
    for key in (key for key in fuser if ".self_attn.v." in key):
        stem, kind = key.split(".v.")
        parts = [fuser[name] for name in (f"{stem}.qk.{kind}", key) if name in fuser]
        state[f"{stem}.in_proj_{kind}"] = torch.cat(parts)
    write_torch(path, {PREFIX + k: v for k, v in state.items()}, torch.bfloat16)
