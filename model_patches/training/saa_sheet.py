"""Pictures of people drawn during a training of DynamicID, and anchoring's sample sheets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.dynamicid import FAMILY, DynamicIDAdapter, load_dynamicid, make_face_tokens
from ..identity.identity import Encoding, Identity
from ..inject.saa import apply_saa
from ..inject.saa_people import Person
from ..inject.saa_settings import SaaSettings
from .face_features import FeatureStore
from .pulid_rows import Row
from .saa_trained import TrainedSaa
from .sheets import Sampling, draw_picture, save_sheet
from .unet_base import UNetBase

COLUMNS = ("reference", "without", "trained")


@dataclass(frozen=True, eq=False)
class Painter:
    """What pictures are sampled with: Apply SAA, and the LoRA as the trainer has it.

    As weight patches the LoRA would change the weights of the base that is being trained beside.
    """

    model: ModelPatcher
    base: UNetBase
    vae: Any
    saa: TrainedSaa
    threshold: float
    how: Sampling
    seed: int = 0

    def paint(
        self,
        adapter: DynamicIDAdapter,
        tokens: tuple[Tensor, Tensor],
        texts: tuple[Tensor, Tensor],
        like: Tensor,
    ) -> Tensor:
        """(h, w, 3) in 0..1. adapter: a file of `saa`; tokens (1, N, width): the person's and
        nobody's; texts (T, c): positive and negative; like (4, h, w): a latent of that size."""
        made = Encoding(FAMILY, adapter.encoder_digest, *tokens)
        settings = SaaSettings(threshold=self.threshold, beta=0.0)
        people = [Person(Identity({FAMILY: made}))]
        model = apply_saa(self.model, adapter, people, settings, lora_strength=0.0).model
        with self.saa.beside(self.base):
            return self._sample(model, texts, like)

    def paint_nobody(self, texts: tuple[Tensor, Tensor], like: Tensor) -> Tensor:
        """The same by the base alone."""
        return self._sample(self.model, texts, like)

    def _sample(self, model: ModelPatcher, texts: tuple[Tensor, Tensor], like: Tensor) -> Tensor:
        positive, negative = ([[text[None], {}]] for text in texts)
        prompts = (positive, negative)
        return draw_picture(model, self.vae, prompts, like, self.how, self.seed)


def write_sheet(
    painter: Painter, store: FeatureStore, rows: Sequence[Row], adapter_file: Path, sheet: Path
) -> None:
    """Each line: a picture that no step has seen, and its caption drawn without and with its face.
    Raises OSError."""
    adapter, nobody = load_dynamicid(adapter_file), _seen(store.nobody)
    lines = []
    for row in rows:
        texts = store.text(row.caption)["text"], store.text(0)["text"]
        like = store.latent(row.photo)["latent"]
        tokens = [make_face_tokens(adapter, *one) for one in (_seen(store.face(row.photo)), nobody)]
        drawn = [
            painter.paint_nobody(texts, like),
            painter.paint(adapter, (tokens[0], tokens[1]), texts, like),
        ]
        lines.append(torch.cat([store.show(row.photo), *drawn], dim=1))
    save_sheet(lines, COLUMNS, sheet)


def _seen(face: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return face["embedding"][None], face["patches"][None]
