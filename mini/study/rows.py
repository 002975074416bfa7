"""The ways to paint a person that are compared. Standard library only: start.py reads them, too."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

WEIGHTS = (0.5, 0.75, 1.0, 1.25)
NUMBERED = re.compile(r"(vfa|flexip|plain)-(\d+(?:\.\d+)?)")
PAIRED = re.compile(r"vfa-(\d+(?:\.\d+)?)\+(flexip|plain)-(\d+(?:\.\d+)?)")
GUIDED = re.compile(r"id-guidance(?:-(\d+(?:\.\d+)?))?(?:-vfa-(\d+(?:\.\d+)?))?")
GUIDED_STRENGTH, GUIDED_WEIGHT = 0.1, 0.5
"""Of the row id-guidance: the node's default, beside an anchor that leaves room to gain."""
PRESETS = ("consistency", "balanced", "editability")
"""Names of model_patches.inject.editid.PRESETS."""
MIXES = ("faithful", "balanced", "editable", "loose")
"""Names of model_patches.identity.mix.PRESETS."""
QUERIES = ("initial", "token_mean", "zero", "soft_append")
"""Modes of model_patches.inject.query that change something."""
_NUMBER = r"(\d+(?:\.\d+)?)"
QUERIED = re.compile(rf"query-({'|'.join(QUERIES)})-{_NUMBER}")
MIXED = re.compile(rf"mix-({'|'.join(MIXES)})")
ID_CFG = re.compile(rf"id-cfg-{_NUMBER}(?:-vfa-{_NUMBER})?")
ADAPTED = re.compile(rf"adapter-(.+)-{_NUMBER}")
KNOBS = (
    "alpha_base", "w_base", "lambda_up", "lambda_down", "kappa_sem", "kappa_vis", "alpha_max",
    "w_max",
)  # fmt: skip
"""Numbers of CAG's equations, model_patches.cag.Knobs, that an evaluation may change."""


@dataclass(frozen=True)
class Row:
    """One way: the visual anchor none, rigid at `weight`, gated by the prompt, of full weight with
    the EditID preset, query control or feature mix that the key names, rigid beside ID guidance or
    ID CFG, or rigid of another adapter's file; FlexIP at the balance `weight`, or the plain
    IP-Adapter that was trained beside it, at that weight, either of them beside a rigid anchor of
    weight `vfa`; people in a way of dynamicid_rows.py; SIP on or off.

    SIP beside a gated anchor follows the gate, too; alone it is constant at alpha_base.
    """

    key: str
    title: str
    anchor: Literal[
        "none", "rigid", "gated", "editid", "queried", "mixed", "guided", "id_cfg", "adapter",
        "flexip", "plain", "people",
    ]  # fmt: skip
    sip: bool = False
    weight: float = 0.0
    vfa: float = 0.0

    @property
    def preset(self) -> str:
        """Of an anchor "editid"."""
        return self.key.removeprefix("editid-")

    @property
    def strength(self) -> float:
        """Of the ID guidance of an anchor "guided"."""
        found = GUIDED.fullmatch(self.key)
        return float(found[1]) if found and found[1] else GUIDED_STRENGTH

    @property
    def query(self) -> tuple[str, float]:
        """Mode and alpha of an anchor "queried"."""
        mode, alpha = QUERIED.fullmatch(self.key).groups()
        return mode, float(alpha)

    @property
    def mix(self) -> str:
        """Of an anchor "mixed"."""
        return MIXED.fullmatch(self.key)[1]

    @property
    def scale(self) -> float:
        """Of the ID CFG of an anchor "id_cfg"."""
        return float(ID_CFG.fullmatch(self.key)[1])

    @property
    def adapter(self) -> str:
        """File name without ending, of an anchor "adapter"."""
        return ADAPTED.fullmatch(self.key)[1]


ALONE = Row("alone", "prompt alone", "none")
SIP_ONLY = Row("sip", "SIP only", "none", sip=True)
VFA_CAG = Row("vfa-cag", "VFA + CAG", "gated")
WHOLE = Row("sip-vfa-cag", "SIP + VFA + CAG", "gated", sip=True)


def rigid_row(weight: float) -> Row:
    return Row(f"vfa-{weight:g}", f"rigid VFA {weight:g}", "rigid", weight=weight)


def editid_row(preset: str) -> Row:
    return Row(f"editid-{preset}", f"VFA, EditID {preset}", "editid", weight=1.0)


def flexip_row(balance: float) -> Row:
    """Raises ValueError for a balance above 1."""
    if balance > 1:
        raise ValueError(f"the balance of flexip-{balance:g} is above 1, expected 0 to 1")
    return Row(f"flexip-{balance:g}", f"FlexIP {balance:g}", "flexip", weight=balance)


def plain_row(weight: float) -> Row:
    return Row(f"plain-{weight:g}", f"IP-Adapter {weight:g}", "plain", weight=weight)


def paired_row(vfa: float, other: Row) -> Row:
    """FlexIP or the plain adapter beside a rigid anchor."""
    title = f"VFA {vfa:g} + {other.title}"
    return replace(other, key=f"vfa-{vfa:g}+{other.key}", title=title, vfa=vfa)


def guided_row(strength: float = GUIDED_STRENGTH, weight: float = GUIDED_WEIGHT) -> Row:
    """ID guidance beside an anchor of `weight`; 0: without one."""
    key = "id-guidance" if strength == GUIDED_STRENGTH else f"id-guidance-{strength:g}"
    beside = f"VFA {weight:g} + " if weight else ""
    key = key if weight == GUIDED_WEIGHT else f"{key}-vfa-{weight:g}"
    return Row(key, f"{beside}ID guidance {strength:g}", "guided", weight=weight)


def query_row(mode: str, alpha: float) -> Row:
    """A query control at full weight."""
    title = f"VFA, query {mode} {alpha:g}"
    return Row(f"query-{mode}-{alpha:g}", title, "queried", weight=1.0)


def mix_row(mix: str) -> Row:
    """A feature mix at full weight."""
    return Row(f"mix-{mix}", f"VFA, mix {mix}", "mixed", weight=1.0)


def id_cfg_row(scale: float, weight: float = GUIDED_WEIGHT) -> Row:
    """ID CFG beside an anchor of `weight`."""
    key = f"id-cfg-{scale:g}" if weight == GUIDED_WEIGHT else f"id-cfg-{scale:g}-vfa-{weight:g}"
    return Row(key, f"VFA {weight:g} + ID CFG {scale:g}", "id_cfg", weight=weight)


def adapter_row(name: str, weight: float) -> Row:
    """Another adapter's file, by its name without ending."""
    return Row(f"adapter-{name}-{weight:g}", f"{name} {weight:g}", "adapter", weight=weight)


ROWS = (ALONE, *map(rigid_row, WEIGHTS), SIP_ONLY, VFA_CAG, WHOLE)


def row_of(key: str) -> Row:
    """The row of a key such as "vfa-0.9", "flexip-0.5", "vfa-0.3+flexip-0.5", "editid-balanced",
    "id-guidance-0.2-vfa-0.75", "query-zero-0.8", "mix-loose", "id-cfg-0.5" or "adapter-mine-0.75".

    Raises ValueError naming the choices.
    """
    if found := NUMBERED.fullmatch(key):
        make = {"vfa": rigid_row, "flexip": flexip_row, "plain": plain_row}[found[1]]
        return make(float(found[2]))
    if found := PAIRED.fullmatch(key):
        make = {"flexip": flexip_row, "plain": plain_row}[found[2]]
        return paired_row(float(found[1]), make(float(found[3])))
    if found := GUIDED.fullmatch(key):
        strength, weight = found.groups()
        return guided_row(
            float(strength or GUIDED_STRENGTH), float(GUIDED_WEIGHT if weight is None else weight)
        )
    if found := QUERIED.fullmatch(key):
        return query_row(found[1], float(found[2]))
    if found := ID_CFG.fullmatch(key):
        return id_cfg_row(float(found[1]), float(found[2] or GUIDED_WEIGHT))
    if found := ADAPTED.fullmatch(key):
        return adapter_row(found[1], float(found[2]))
    named = {row.key: row for row in (*ROWS, *map(editid_row, PRESETS), *map(mix_row, MIXES))}
    if key not in named:
        raise ValueError(
            f"no row is called {key!r}; there are {', '.join(named)}, vfa-W and plain-W at any "
            "weight W, flexip-B at a balance B, vfa-W+plain-W and vfa-W+flexip-B, "
            "id-guidance-S-vfa-W at any strength S, id-cfg-S-vfa-W at any scale S, query-MODE-A "
            f"at any alpha A with MODE of {', '.join(QUERIES)}, and adapter-NAME-W with the file "
            "NAME.safetensors"
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
