"""Make one Identity from several: separately encoded photos of a person, or a blend of people."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..gates.numbers import parse_weights
from .encode import Encoded
from .fusion import REJECT_OUTLIERS, Fused, describe_outliers, fuse
from .identity import Encoding, Identity
from .provenance import merge_provenance


def combine_identities(identities: Sequence[Identity], fusion: str, weights: str = "") -> Encoded:
    """Fuse identities by a key of `fusion.RULES`, `weights` as in `parse_weights`.

    Each adapter family that all of them carry is fused; photo features are kept row by row when
    all have them. Raises ValueError for none, no common family, or tokens of different encoders.
    """
    families = _common_families(identities)
    shares = parse_weights(weights)
    arcface = _representatives(identities)
    fused = {
        family: fuse([i.encodings[family].tokens for i in identities], fusion, arcface, shares)
        for family in families
    }
    common = [n for n in identities[0].features if all(n in i.features for i in identities)]
    identity = Identity(
        encodings={
            family: _combine([i.encodings[family] for i in identities], result, fusion)
            for family, result in fused.items()
        },
        features={name: torch.cat([i.features[name] for i in identities]) for name in common},
        thumbnail=_side_by_side([i.thumbnail for i in identities if i.thumbnail is not None]),
        provenance={**merge_provenance([i.provenance for i in identities]), "combined": fusion},
    )
    report = _report(fused[families[0]].shares, fusion)
    if fusion == REJECT_OUTLIERS and arcface is not None:
        report += f"\n{describe_outliers(arcface)}"
    return Encoded(identity, report)


def _common_families(identities: Sequence[Identity]) -> list[str]:
    if not identities:
        raise ValueError("0 identities to combine, expected at least 1. Connect Encode Identity.")
    families = [f for f in identities[0].encodings if all(f in i.encodings for i in identities)]
    if not families:
        have = "; ".join(", ".join(i.encodings) or "none" for i in identities)
        raise ValueError(
            f"the identities share no adapter family (they carry: {have}). "
            "Encode all of them with one adapter."
        )
    for family in families:
        _check_encoders(family, [i.encodings[family] for i in identities])
    return families


def _check_encoders(family: str, encodings: Sequence[Encoding]) -> None:
    """Raise ValueError when encoders differ: a mean of tokens from two spaces is meaningless."""
    known = [one.encoder for one in encodings]
    if not all(known):  # an identity of version 1 names the adapter's file instead
        known = [one.recipe.get("adapter_digest", "") for one in encodings]
    values = list(dict.fromkeys(value for value in known if value))
    if len(values) > 1:
        files = ", ".join(dict.fromkeys(one.recipe.get("adapter", "unknown") for one in encodings))
        raise ValueError(
            f"the identities' {family} tokens were made by different encoders "
            f"({' and '.join(value[:12] for value in values)}, of the files {files}), whose "
            "tokens do not mix. Encode all of them with one adapter."
        )


def _combine(encodings: Sequence[Encoding], fused: Fused, fusion: str) -> Encoding:
    first = encodings[0]
    recipe = {**merge_provenance([one.recipe for one in encodings]), "combined": fusion}
    encoder = next((one.encoder for one in encodings if one.encoder), "")
    return Encoding(first.family, encoder, fused.tokens, first.null, recipe=recipe)


def _representatives(identities: Sequence[Identity]) -> Tensor | None:
    """(I, E): per identity the mean direction of its photos at their mean length."""
    rows = [one.features["arcface"] for one in identities if "arcface" in one.features]
    if len(rows) < len(identities):
        return None
    return torch.stack([F.normalize(r.mean(0), dim=0) * r.norm(dim=1).mean() for r in rows])


def _side_by_side(pictures: Sequence[Tensor]) -> Tensor | None:
    """One row of thumbnails of the first one's height."""
    if not pictures:
        return None
    height = pictures[0].shape[0]
    return torch.cat([_to_height(picture, height) for picture in pictures], dim=1)


def _to_height(picture: Tensor, height: int) -> Tensor:
    if picture.shape[0] == height:
        return picture
    size = (height, max(1, round(picture.shape[1] * height / picture.shape[0])))
    image = F.interpolate(picture.permute(2, 0, 1)[None].float(), size, mode="area")
    return image[0].permute(1, 2, 0).round().to(torch.uint8)


def _report(shares: Sequence[float], fusion: str) -> str:
    lines = [f"{len(shares)} identities, fusion: {fusion}"]
    lines += [f"identity {i}: share {share:.0%}" for i, share in enumerate(shares, 1)]
    return "\n".join(lines)
