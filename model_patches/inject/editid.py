"""EditIDv2 in one choice: what an identity is made of, and how the picture asks about it.

EditIDv2 (arXiv 2509.05659, section 3.4) keeps weights for consistency and for editability, and
prefers the latter for long, eventful prompts. Its weights are not published, so the two controls
stand in for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..gates.schedule import Schedule
from ..identity.mix import PRESETS as MIXES
from ..identity.mix import FeatureMix
from .query import QueryControl


@dataclass(frozen=True)
class Preset:
    """Both controls."""

    query: QueryControl
    mix: FeatureMix

    def describe(self) -> str:
        """One line for each, for the user."""
        return f"queries, {self.query.describe()}\nmix: {self.mix.describe()}"


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "consistency": Preset(QueryControl(), MIXES["faithful"]),
        "balanced": Preset(QueryControl("token_mean", Schedule(alpha=0.9)), MIXES["balanced"]),
        "editability": Preset(QueryControl("token_mean", Schedule(alpha=0.8)), MIXES["editable"]),
    }
)
"""consistency is PuLID as it is. The others' modes and α were chosen in the small world, on people
of its tuning split, where token_mean alone gave edits back; the mixes are not measured there."""
