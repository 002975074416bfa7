"""Paints people with ComfyUI's own sampler and the pack's own functions, without a server.

The same calls in the same order as the nodes make them, so a picture is the one that a graph with
the same seed paints. Prompts that need the same model go through it together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path

import comfy.sample
import comfy.sd
import comfy.utils
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...model_patches.adapters.flexip import FlexIPAdapter
from ...model_patches.adapters.flexip_file import load_flexip
from ...model_patches.adapters.pulid_flux import IdentityAdapter, load_adapter
from ...model_patches.encoders.eva_clip import VisionEncoder, load_eva_clip
from ...model_patches.encoders.faceclip import load_faceclip
from ...model_patches.encoders.mini_text import load_mini_clip
from ...model_patches.face.analyser import FaceAnalyser, load_analyser
from ...model_patches.face.choose import FaceChoice
from ...model_patches.face.detect import detect_faces
from ...model_patches.face.face import Face
from ...model_patches.gates import cag
from ...model_patches.identity.encode import encode_identity
from ...model_patches.identity.identity import Identity
from ...model_patches.identity.reference import Encoders, encode_reference
from ...model_patches.inject.flexip import apply_flexip
from ...model_patches.inject.id_cfg import apply_id_cfg
from ...model_patches.inject.id_guidance.apply import apply_id_guidance
from ...model_patches.inject.id_guidance.settings import Guiding
from ...model_patches.inject.sip import Wording, apply_sip
from ...model_patches.inject.vfa import apply_vfa
from ...model_patches.sip.faceclip import FaceClipProjector
from ...model_patches.sip.projector import encode_sip
from .. import world
from .controls import controls_of
from .prompts import Prompt
from .rows import Row, Settings

LATENT, FACTOR = 16, 8
"""Channels of a Flux latent, and how much smaller than the picture it is."""
ENCODED = 64
LOOKED = 2
"""Identities for FlexIP that are kept: one person's, for each of its adapters."""


@dataclass(frozen=True, eq=False)
class Sitter:
    """A person as the streams read it, and the face that pictures are compared with."""

    face: Face
    identity: Identity
    photo: Tensor
    """(1, H, W, 3) in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a sampler gets."""

    model: ModelPatcher
    positive: list
    negative: list


class Studio:
    """The models of one folder, each opened when a row first needs it."""

    def __init__(
        self,
        models: Path,
        settings: Settings,
        knobs: cag.Knobs | None = None,
        adapters: Mapping[str, Path] | None = None,
    ) -> None:
        """adapters: name -> file of those that rows "adapter" name; they read the identities of the
        small world's own."""
        self.models, self.settings = models, settings
        self.knobs, self.adapters = knobs or cag.Knobs(), adapters or {}
        self.encode = lru_cache(ENCODED)(self._encode)
        self.refer = lru_cache(LOOKED)(self._refer)
        self.open_adapter = lru_cache(None)(lambda name: load_adapter(self.adapters[name]))

    @cached_property
    def model(self) -> ModelPatcher:
        dtype = self.settings.dtype
        options = {} if dtype == "auto" else {"dtype": getattr(torch, dtype)}
        return comfy.sd.load_diffusion_model(str(self.models / world.FLUX), model_options=options)

    @cached_property
    def clip(self) -> comfy.sd.CLIP:
        return load_mini_clip(self.models / world.T5, self.models / world.CLIP_L)

    @cached_property
    def vae(self) -> comfy.sd.VAE:
        path = str(self.models / world.VAE)
        state, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
        return comfy.sd.VAE(sd=state, metadata=metadata)

    @cached_property
    def analyser(self) -> FaceAnalyser:
        folder = (self.models / world.RECOGNISER).parent
        return load_analyser(folder, "auto", ["auto"], None)

    @cached_property
    def adapter(self) -> IdentityAdapter:
        return load_adapter(self.models / world.PULID)

    @cached_property
    def tower(self) -> VisionEncoder:
        return load_eva_clip(self.models / world.EVA)

    @cached_property
    def flexip(self) -> FlexIPAdapter:
        return load_flexip(self.models / world.FLEXIP)

    @cached_property
    def plain(self) -> FlexIPAdapter:
        return load_flexip(self.models / world.FLEXIP_PLAIN)

    @cached_property
    def projector(self) -> FaceClipProjector:
        return FaceClipProjector(load_faceclip(self.models / world.FACE_T5), "difference")

    @torch.inference_mode()
    def sitter(
        self, photo: np.ndarray, sip: bool = True, adapter: IdentityAdapter | None = None
    ) -> Sitter:
        """(H, W, 3) uint8 -> the largest face in it, encoded; for SIP only where a row needs it.

        adapter: another one than the small world's. Raises ValueError where no face is found.
        """
        image = torch.from_numpy(photo)[None].float() / 255
        faces = detect_faces(self.analyser, image, FaceChoice()).faces
        identity = encode_identity(adapter or self.adapter, self.tower, faces).identity
        if sip:
            identity = encode_sip(self.projector, faces, identity)
        return Sitter(faces[0], identity, image)

    @torch.inference_mode()
    def paint(
        self, row: Row, sitter: Sitter | None, prompts: Sequence[Prompt], seeds: Sequence[int]
    ) -> np.ndarray:
        """One picture per prompt, (P, side, side, 3) uint8; the noise of each is its own seed's."""
        side = self.settings.side
        pictures = np.empty((len(prompts), side, side, 3), np.uint8)
        for indices in self._group_prompts(row, prompts):
            chosen = [prompts[index] for index in indices]
            inputs = self._prepare_inputs(row, sitter, chosen)
            pictures[indices] = self.sample(inputs, [seeds[index] for index in indices])
        return pictures

    def _group_prompts(self, row: Row, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Prompts with the same gate share a model. SIP that follows a gate goes one by one."""
        if row.anchor == "gated" and row.sip:
            yield from ([index] for index in range(len(prompts)))
        elif row.anchor == "gated":
            intents = [cag.compute_gates(prompt.text, self.knobs).intent for prompt in prompts]
            order = sorted(range(len(prompts)), key=intents.__getitem__)
            yield from (list(group) for _, group in groupby(order, key=intents.__getitem__))
        else:
            yield list(range(len(prompts)))

    def _prepare_inputs(self, row: Row, sitter: Sitter | None, prompts: Sequence[Prompt]) -> Inputs:
        """What reaches the sampler: model with anchor, conditioning with a row per prompt."""
        if row.anchor in ("flexip", "plain"):
            return self._attend(row, sitter, prompts)
        gates = cag.compute_gates(prompts[0].text, self.knobs)
        model, encoded = self.model, [self.encode(prompt.text) for prompt in prompts]
        if row.sip and row.anchor == "gated":
            wording = Wording(self.clip, prompts[0].text)
            edited = apply_sip(
                encoded[0], self.projector, sitter.identity, weight=1.0, wording=wording,
                gate=gates.semantic, model=model,
            )  # fmt: skip
            model, encoded = edited.model, [edited.conditioning]
        elif row.sip:
            encoded = [
                apply_sip(
                    one, self.projector, sitter.identity, weight=self.knobs.alpha_base,
                    wording=Wording(self.clip, prompt.text),
                ).conditioning
                for one, prompt in zip(encoded, prompts, strict=True)
            ]  # fmt: skip
        if row.anchor in ("rigid", "guided", "id_cfg"):
            model = apply_vfa(model, self.adapter, sitter.identity, weight=row.weight)
        elif row.anchor == "adapter":
            adapter = self.open_adapter(row.adapter)
            model = apply_vfa(model, adapter, sitter.identity, weight=row.weight)
        elif row.anchor == "gated":
            model = apply_vfa(model, self.adapter, sitter.identity, gate=gates.visual)
        elif controls := controls_of(row):
            mix, query = controls.mix, controls.query
            identity = encode_identity(self.adapter, self.tower, (sitter.face,), mix=mix).identity
            model = apply_vfa(model, self.adapter, identity, weight=row.weight, query=query)
        if row.anchor == "guided":
            guiding = Guiding(row.strength)
            model = apply_id_guidance(model, self.analyser, sitter.identity, self.vae, guiding)
        elif row.anchor == "id_cfg":
            model = apply_id_cfg(model, scale=row.scale)
        return Inputs(model, join_conditionings(encoded), self.encode(""))

    def _attend(self, row: Row, sitter: Sitter, prompts: Sequence[Prompt]) -> Inputs:
        """FlexIP at the row's balance, or the plain adapter at its weight, and an anchor beside."""
        model = self.model
        if row.vfa:
            model = apply_vfa(model, self.adapter, sitter.identity, weight=row.vfa)
        two = row.anchor == "flexip"
        adapter = self.flexip if two else self.plain
        identity = self.refer(adapter, sitter)
        positive = join_conditionings([self.encode(prompt.text) for prompt in prompts])
        strength = {"value": row.weight} if two else {"value": 1.0, "strength": row.weight}
        done = apply_flexip(model, positive, self.encode(""), adapter, identity, **strength)
        return Inputs(done.model, done.positive, done.negative)

    def _refer(self, adapter: FlexIPAdapter, sitter: Sitter) -> Identity:
        encoders = Encoders(eva=self.tower)
        return encode_reference(adapter, encoders, sitter.photo, (sitter.face,)).identity

    def _encode(self, text: str) -> list:
        tokens = self.clip.tokenize(text)
        return self.clip.encode_from_tokens_scheduled(
            tokens, add_dict={"guidance": self.settings.guidance}
        )

    def sample(self, inputs: Inputs, seeds: Sequence[int], across: int = 1) -> np.ndarray:
        """One picture per seed, (P, side, across · side, 3) uint8."""
        made, side = self.settings, self.settings.side // FACTOR
        latent = torch.zeros(len(seeds), LATENT, side, across * side)
        noise = torch.cat([comfy.sample.prepare_noise(latent[:1], seed) for seed in seeds])
        samples = comfy.sample.sample(
            inputs.model, noise, made.steps, made.cfg, made.sampler, made.scheduler,
            inputs.positive, inputs.negative, latent, disable_pbar=True, seed=seeds[0],
        )  # fmt: skip
        return eight_bit(self.vae.decode(samples))


def join_conditionings(conditionings: Sequence[list]) -> list:
    """One conditioning whose rows are several prompts', each of one entry and of equal length."""
    if len(conditionings) == 1:
        return conditionings[0]
    entries = [conditioning[0] for conditioning in conditionings]
    pooled = torch.cat([extra["pooled_output"] for _, extra in entries])
    return [[torch.cat([text for text, _ in entries]), {**entries[0][1], "pooled_output": pooled}]]


def eight_bit(images: Tensor) -> np.ndarray:
    """(B, H, W, C) float in [0, 1] -> uint8, as ComfyUI's SaveImage rounds."""
    return (images.float().cpu() * 255).clamp(0, 255).to(torch.uint8).numpy()
