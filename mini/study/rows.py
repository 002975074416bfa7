"""The ways to paint a person that are compared. Standard library only: start.py reads them, too."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

WEIGHTS = (0.5, 0.75, 1.0, 1.25)
RIGID = re.compile(r"vfa-(\d+(?:\.\d+)?)")
PRESETS = ("consistency", "balanced", "editability")
"""Names of model_patches.inject.editid.PRESETS."""
KNOBS = (
    "alpha_base", "w_base", "lambda_up", "lambda_down", "kappa_sem", "kappa_vis", "alpha_max",
    "w_max",
)  # fmt: skip
"""Numbers of CAG's equations, model_patches.cag.Knobs, that an evaluation may change."""


@dataclass(frozen=True)
class Row:
    """One way: the visual anchor none, rigid at `weight`, gated by the prompt, or of full weight
    with the EditID preset that the key ends in; SIP on or off.

    SIP beside a gated anchor follows the gate, too; alone it is constant at alpha_base.
    """

    key: str
    title: str
    anchor: Literal["none", "rigid", "gated", "editid"]
    sip: bool = False
    weight: float = 0.0

    @property
    def preset(self) -> str:
        """Of an anchor "editid"."""
        return self.key.removeprefix("editid-")


ALONE = Row("alone", "prompt alone", "none")
SIP_ONLY = Row("sip", "SIP only", "none", sip=True)
VFA_CAG = Row("vfa-cag", "VFA + CAG", "gated")
WHOLE = Row("sip-vfa-cag", "SIP + VFA + CAG", "gated", sip=True)


def rigid_row(weight: float) -> Row:
    return Row(f"vfa-{weight:g}", f"rigid VFA {weight:g}", "rigid", weight=weight)


def editid_row(preset: str) -> Row:
    return Row(f"editid-{preset}", f"VFA, EditID {preset}", "editid", weight=1.0)


ROWS = (ALONE, *map(rigid_row, WEIGHTS), SIP_ONLY, VFA_CAG, WHOLE)


def row_of(key: str) -> Row:
    """The row of a key such as "vfa-cag", "vfa-0.9" or "editid-balanced". Raises ValueError naming
    the choices."""
    if found := RIGID.fullmatch(key):
        return rigid_row(float(found[1]))
    named = {row.key: row for row in (*ROWS, *map(editid_row, PRESETS))}
    if key not in named:
        raise ValueError(
            f"no row is called {key!r}; there are {', '.join(named)}, and vfa-W at any weight W"
        )
    return named[key]


DTYPES = ("auto", "bfloat16")


@dataclass(frozen=True)
class Settings:
    """How every picture is sampled: side in pixels, and KSampler's values.

    `guidance` reaches models with a guidance input only; the negative prompt of `cfg` is empty.
    `dtype` is what FLUX computes in; "auto" is ComfyUI's choice, float32 on a CPU.
    """

    side: int
    steps: int
    guidance: float
    cfg: float
    sampler: str
    scheduler: str
    dtype: str

    def __post_init__(self) -> None:
        if self.steps < 1 or self.cfg <= 0 or not math.isfinite(self.cfg + self.guidance):
            raise ValueError(
                f"steps {self.steps}, cfg {self.cfg:g}, guidance {self.guidance:g}: expected 1 or "
                "more steps, a cfg above 0 and finite numbers"
            )


def settings(**changes: object) -> Settings:
    """Those of settings.json, with what is given and not None in place of it."""
    path = Path(__file__).with_name("settings.json")
    stated = json.loads(path.read_text(encoding="utf-8"))
    return Settings(**stated | {name: v for name, v in changes.items() if v is not None})


def as_json(value: Row | Settings) -> dict[str, object]:
    return asdict(value)
