"""Made-up faces for tests that need no photograph."""

from __future__ import annotations

import dataclasses

import torch
from flexid.model_patches.face.face import Face

PARSER_LABELS = (1, 17, 0, 16)


def face(seed: int = 0, **changes: object) -> Face:
    """A Face with seeded pixels, a raw embedding of length about 22, and no parsing labels."""
    generator = torch.Generator().manual_seed(seed)

    def pixels(side: int) -> torch.Tensor:
        coarse = torch.randint(0, 256, (1, 3, 8, 8), generator=generator).float()
        smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
        return smooth[0].permute(1, 2, 0).to(torch.uint8)

    made = Face(
        photo=seed,
        photo_hash=f"photo{seed}",
        box=(10.0, 20.0, 110.0, 140.0),
        points=torch.zeros(5, 2),
        score=0.9,
        detector="test detector",
        angles=(0.0, 0.0, 0.0),
        ffhq_crop=pixels(512),
        labels=None,
        embedding=torch.randn(512, generator=generator),
        recogniser="test recogniser",
    )
    return dataclasses.replace(made, **changes)


def labels() -> torch.Tensor:
    """(512, 512) uint8: four quarters of skin, hair, background and cloth."""
    return (
        torch.tensor(PARSER_LABELS, dtype=torch.uint8)
        .reshape(2, 2)
        .kron(torch.ones(256, 256, dtype=torch.uint8))
    )
