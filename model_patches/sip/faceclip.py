"""FaceCLIP's fuser as a source of δ: what the face adds to the fused prompt.

The fuser returns a whole new prompt, not a residual, in coordinates of its own and at a
length of its own. So there are three forms of δ, see FORMS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..encoders.faceclip import FaceClip, Patcher, Tower, run
from ..encoders.faceclip_pixels import faceclip_pixels, no_face
from ..encoders.faceclip_text import LENGTH, tokenize_prefixed, without_prefix
from ..face.face import Face, face_key
from ..files.cache import TensorCache, tensor_key
from .projector import Direction, Prompt

Form = Literal["difference", "literal"]
FORMS = {
    "difference": "F(E, face) - F(E, no face): only what the face contributes; 0 for no face",
    "literal": "F(E, face), the paper's formula: mostly the prompt in the fuser's own coordinates",
}
FAINT = 0.05
"""Share of the fused prompt that depends on the face, below which it hardly carries identity."""

_faces: TensorCache[tuple[Tensor]] = TensorCache(32 << 20)


@dataclass(frozen=True, eq=False)
class FaceClipProjector:
    """A SipProjector over FaceCLIP's fusers: FaceT5 for Flux, L or L and bigG for SD 1.5, SDXL."""

    model: FaceClip
    form: Form = "difference"
    alignment: Mapping[str, Tensor] = field(default_factory=dict)
    """Tower key -> (D, D): takes the fuser's coordinates to the text encoder's; empty: not aligned.
    Only differences are aligned."""

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"Unknown form {self.form!r}; choose one of {', '.join(FORMS)}.")
        if self.alignment and self.form != "difference":
            raise ValueError(
                f"The form is {self.form!r}, but only 'difference' can be aligned. Load the "
                "projector with form 'difference'."
            )

    @property
    def family(self) -> str:
        return self.model.family

    @property
    def name(self) -> str:
        return f"{self.model.name} ({'aligned' if self.alignment else self.form})"

    @property
    def encoder_digest(self) -> str:
        return self.model.encoder_digest

    @property
    def digest(self) -> str:
        aligned = "".join(tensor_key(matrix) for matrix in self.alignment.values())
        return f"{self.model.digest} {self.form} {aligned}"

    def with_alignment(self, matrices: Mapping[str, Tensor]) -> FaceClipProjector:
        return replace(self, alignment=matrices)

    def encode(self, faces: Sequence[Face]) -> Tensor:
        """(1, F·N, C): per face and tower 144 patch tokens, for L and bigG one class row more."""
        rows = []
        for face in faces:
            key = (self.model.digest, face_key(face), tensor_key(face.points))
            entry = _faces.get(key)
            if entry is None:
                entry = _faces.put(key, (self._look(faceclip_pixels(face)),))
            rows.append(entry[0])
        return torch.cat(rows, dim=1)

    def nobody(self) -> Tensor:
        key = (self.model.digest, "nobody")
        entry = _faces.get(key) or _faces.put(key, (self._look(no_face()),))
        return entry[0]

    def _look(self, pixels: Tensor) -> Tensor:
        rows = []
        for tower in self.model.towers:
            patches, vector = run(tower.face, pixels)
            rows.append(patches)
            if vector is not None:
                rows.append(F.pad(vector, (0, patches.shape[-1] - vector.shape[-1]))[:, None])
        return torch.cat(rows, dim=1)

    def direction(self, tokens: Tensor, prompt: Prompt) -> Direction:
        """The mean over the faces, each fused on its own."""
        towers = self._towers(prompt)
        per_face = self.nobody().shape[1]
        if tokens.shape[1] % per_face or tokens.shape[2] != self.nobody().shape[2]:
            raise ValueError(
                f"The identity has {tokens.shape[1]} tokens of width {tokens.shape[2]} for "
                f"{self.family}, expected a multiple of {per_face} of width "
                f"{self.nobody().shape[2]}. Encode the face with this projector."
            )
        faces = tokens.split(per_face, dim=1)
        fused = torch.stack([self.fuse(face, prompt) for face in faces]).mean(0)
        apart = fused - self.fuse(self.nobody(), prompt)
        share = (apart.norm() / fused.norm().clamp_min(1e-30)).item()
        direction = fused if self.form == "literal" else self._to_text(apart, towers)
        return Direction(direction, tuple(self._notes(prompt, share)))

    def fuse(self, face: Tensor, prompt: Prompt) -> Tensor:
        """F(E, face) in the places of the prompt's tokens, (B, T, D); 0 where the fuser is blind.

        face (1, N, C): one face of `encode`, or `nobody`. Raises ValueError for a prompt that does
        not fit.
        """
        towers = self._towers(prompt)
        if self.family == "faceclip_t5":
            limit = towers[0].fuser.model.dims.positions
            states = prompt.states[:, :limit]
            out = run(towers[0].fuser, states, face)
            return F.pad(out, (0, 0, 0, prompt.states.shape[1] - states.shape[1]))
        words = _words(prompt)
        blocks = face.split(face.shape[1] // len(self.model.towers), dim=1)
        named = dict(zip((t.key for t in self.model.towers), blocks, strict=True))
        parts = [
            _fuse_words(tower, tower.text, named[tower.key], words)
            for tower in towers
            if tower.text is not None
        ]
        return torch.cat(parts, dim=-1).expand(len(prompt.states), -1, -1)

    def slices(self, prompt: Prompt) -> list[tuple[Tower, slice]]:
        """The towers that this prompt's text is made of, and where their channels are."""
        edges = [0]
        for tower in self._towers(prompt):
            edges.append(edges[-1] + tower.width)
        spans = [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
        return list(zip(self._towers(prompt), spans, strict=True))

    def _towers(self, prompt: Prompt) -> tuple[Tower, ...]:
        """All towers side by side (SDXL), or the one of this width (Flux, SD 1.5)."""
        width = prompt.states.shape[-1]
        towers = self.model.towers
        if sum(tower.width for tower in towers) == width:
            return towers
        for tower in towers:
            if tower.width == width:
                return (tower,)
        sizes = " + ".join(f"{tower.key} {tower.width}" for tower in towers)
        raise ValueError(
            f"The prompt's text is {width} wide; the SIP projector '{self.model.name}' fuses "
            f"{sizes}. Use face_t5_encoder.pt with Flux, face_clip_encoder.pt with SDXL or SD 1.5."
        )

    def _to_text(self, apart: Tensor, towers: Sequence[Tower]) -> Tensor:
        if not self.alignment:
            return apart
        parts = apart.split([tower.width for tower in towers], dim=-1)
        turned = [
            part @ self.alignment[tower.key] if tower.key in self.alignment else part
            for tower, part in zip(towers, parts, strict=True)
        ]
        return torch.cat(turned, dim=-1)

    def _notes(self, prompt: Prompt, share: float) -> list[str]:
        """Notes on what is unusual; empty in an ordinary run."""
        notes = []
        if share < FAINT:
            notes.append(
                f"the face makes {share:.1%} of the fused prompt (below {FAINT:.0%}: it hardly "
                "carries identity)"
            )
        tokens = prompt.states.shape[1]
        if self.family == "faceclip_t5":
            limit = self.model.towers[0].fuser.model.dims.positions
            if tokens > limit:
                notes.append(f"tokens after the first {limit} of {tokens} are left as they are")
        return notes


def _words(prompt: Prompt) -> Tensor:
    if not prompt.text.strip():
        raise ValueError(
            "FaceCLIP L and bigG read the words with text towers of their own, but no text is "
            "connected. Connect text (the same as in the text encode node)."
        )
    words = tokenize_prefixed(prompt.text)
    if words.shape[0] * LENGTH != prompt.states.shape[1]:
        raise ValueError(
            f"The conditioning has {prompt.states.shape[1]} tokens, the text makes "
            f"{words.shape[0] * LENGTH}. Connect the text that made the conditioning."
        )
    return words


def _fuse_words(tower: Tower, reader: Patcher, face: Tensor, words: Tensor) -> Tensor:
    patches, vector = face[:, :-1], face[:, -1, : reader.model.proj1.in_features]
    states = run(reader, words, vector)
    positions = tower.face.model.pos_embed.detach().cpu().float()
    return without_prefix(run(tower.fuser, states, patches, positions))
