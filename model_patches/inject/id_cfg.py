"""ID CFG: away from nobody, without a recogniser (EditIDv2's guidance in a form without gradients).

Every positive prompt is predicted twice: with the anchors' person, and with what the anchors give a
negative prompt, which is the encoder's answer to nobody. The prediction becomes
x0' = x0_person + γ·(x0_person - x0_nobody), as classifier-free guidance does for the text.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.patcher_extension
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..files.cache import tensor_key
from ..gates.gate import OPEN, Gate, Moment
from ..gates.numbers import check_number
from .anchor import LABEL as ANCHOR_LABEL
from .call import PromptRows, Run
from .region import Region, region_of
from .run import (
    KEY,
    RUN,
    PromptCarrier,
    WholePrediction,
    injections_of,
    moments_of,
    register,
    with_originals,
)
from .vfa_flux import FluxAnchor
from .vfa_unet import UNetAnchor

ID_CFG = "id_cfg"
LABEL = "Apply ID CFG"
LARGEST_SCALE = 3.0


@dataclass(frozen=True, eq=False)
class IdCfg(WholePrediction):
    """One scale on one model: an Injection that acts on whole predictions."""

    scale: float
    gate: Gate
    region: Region | None
    order: str

    kind = ID_CFG
    label = LABEL

    def check_run(self, prompts: Sequence[PromptRows], options: Mapping[str, Any]) -> None:
        held = injections_of(options)
        anchors = [one.anchor for one in held if isinstance(one, FluxAnchor | UNetAnchor)]
        apart = [one for one in anchors if one.negative != "same"]
        if not apart:
            raise RuntimeError(
                f"{LABEL} compares a person with nobody, but {len(anchors)} {ANCHOR_LABEL} are on "
                f"this model and 0 of them tell the two apart. Put {ANCHOR_LABEL} on the model, "
                "with negative set to unconditional or none."
            )

    def weight(self, moment: Moment, x: Tensor) -> float | Tensor:
        """γ at this moment: one number, or (1 or B, 1, h, w) for a region."""
        scale = self.gate.weight(moment, self.scale)
        if self.region is None or scale == 0.0:
            return scale
        size = x.shape[-2], x.shape[-1]
        return self.region.on_latent(size, x.shape[0]).to(x)[:, None] * scale


def apply_id_cfg(
    model: ModelPatcher, *, scale: float, gate: Gate = OPEN, mask: Tensor | None = None
) -> ModelPatcher:
    """A clone of a model with Apply VFA, whose predictions are moved away from nobody.

    scale in [0, 3]: γ; 0 is the model as it was, all else takes a second prediction of the positive
    prompt while the gate is open. mask (H, W) or (B, H, W) in [0, 1]: where. Apply VFA may come
    before or after it. Raises ValueError for a number or mask that does not fit; a run without an
    anchor raises RuntimeError before its first prediction.
    """
    check_number(f"The scale of {LABEL}", scale, 0.0, LARGEST_SCALE)
    region = None if mask is None else region_of(mask)
    patched = model.clone()
    if scale == 0.0 or (region is not None and region.is_empty):
        return patched
    facts = scale, gate, "" if region is None else tensor_key(region.mask)
    order = hashlib.sha256(repr(facts).encode()).hexdigest()
    register(patched, IdCfg(scale, gate, region, order))
    kind = comfy.patcher_extension.WrappersMP.CALC_COND_BATCH
    if not patched.get_wrappers(kind, ID_CFG):
        patched.add_wrapper_with_key(kind, ID_CFG, predict_both)
    return patched


def predict_both(
    executor: Any,
    model: Any,
    conds: list[list[dict[str, Any]] | None],
    x: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any],
) -> list[Tensor]:
    """CALC_COND_BATCH wrapper: positive prompts with and without the person, in one batch."""
    options = model_options["transformer_options"]
    run = options.get(RUN) or Run()
    run.cache[ID_CFG] = True
    schedule = options.get("sample_sigmas")
    (moment,) = moments_of(run, model.model_sampling, [timestep[0].item()], schedule)
    guidances = [one for one in injections_of(options) if isinstance(one, IdCfg)]
    weights = [one.weight(moment, x) for one in guidances]
    weights = [one for one in weights if isinstance(one, Tensor) or one]
    lists, originals = list(conds), list(range(len(conds)))
    for number, entries in enumerate(conds) if weights else ():
        if entries and all(_prompt_of(entry).has_person for entry in entries):
            lists.append([_without_person(entry) for entry in entries])
            originals.append(number)
    if len(lists) == len(conds):
        return executor(model, conds, x, timestep, model_options)
    given = {**model_options, "transformer_options": with_originals(options, originals)}
    outputs = executor(model, lists, x, timestep, given)
    results = list(outputs[: len(conds)])
    for number, nobody in zip(originals[len(conds) :], outputs[len(conds) :], strict=True):
        difference = results[number] - nobody
        for weight in weights:
            results[number] = results[number] + weight * difference
    return results


def _prompt_of(entry: Mapping[str, Any]) -> PromptRows:
    carrier = entry.get("model_conds", {}).get(KEY)
    return PromptRows("negative") if carrier is None else carrier.prompt


def _without_person(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The same prompt as if the anchors had nobody; caches know it by a name of its own."""
    prompt = replace(_prompt_of(entry), nobody=True)
    return {
        **entry,
        "uuid": uuid.uuid5(entry["uuid"], ID_CFG),
        "model_conds": {**entry["model_conds"], KEY: PromptCarrier(prompt)},
    }
