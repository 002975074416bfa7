"""The injection core: what a sampling run is, whose rows are whose, and what happens in a call.

Everything travels by public hooks, one of each kind for all injections together. A carrier on every
prompt says whose it is and holds what travels with it. A wrapper around the whole run opens a Run,
which dies with the run. A wrapper around each model call reads both, lets text injections edit the
text, and works out the terms that the sites inside the model then add (see sites.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import comfy.model_sampling
import comfy.patcher_extension
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..gates.clock import Clock
from ..gates.gate import Moment
from .call import CALL, WATCH, Call, PromptRows, Role, Run, Site, Term
from .sites import missed_sites

KEY = "flexid"
"""Names whatever this pack puts into ComfyUI's structures: carrier, wrappers, injections."""
RUN = "flexid_run"
ORIGINALS = "flexid_originals"
"""Key in transformer_options: for each list of prompts the one that it stands for, where an
injection predicts some of them more than once."""


@dataclass(frozen=True, eq=False)
class PromptCarrier:
    """Takes a PromptRows through ComfyUI's batching of prompts (the protocol of comfy.conds).

    `cond_or_uncond` cannot tell positive from negative: its meaning depends on the guider. The
    name under which the guider holds the prompt can, and `model_conds` follow the prompt.
    """

    prompt: PromptRows

    def process_cond(
        self, batch_size: int, area: Sequence[int] | None = None, **_: Any
    ) -> PromptCarrier:
        return PromptCarrier(replace(self.prompt, area=None if area is None else tuple(area)))

    def can_concat(self, other: PromptCarrier) -> bool:
        return True

    def concat(self, others: Sequence[PromptCarrier]) -> CallPrompts:
        return CallPrompts((self.prompt, *(other.prompt for other in others)))

    def size(self) -> list[int]:
        return [1]


class CallPrompts(tuple):
    """The prompts of one model call, in the order of its rows."""

    @property
    def dtype(self) -> torch.dtype:
        """ComfyUI asks each input of the model for its type. This object must not get there."""
        kinds = sorted({kind for prompt in self for kind in prompt.payloads}) or ["none"]
        raise RuntimeError(
            f"The prompt comes from an Apply node that patches the MODEL as well ({kinds[0]}), but "
            "this MODEL does not. Connect the MODEL that the same node returns, or the prompt from "
            "before it."
        )


def payloads_of(extra: Mapping[str, Any]) -> Mapping[str, Any]:
    """What injections have put on a conditioning entry's options, by kind."""
    carrier = extra.get("model_conds", {}).get(KEY)
    return {} if carrier is None else carrier.prompt.payloads


def payload_of(extra: Mapping[str, Any], kind: str) -> Any:
    """What injections of `kind` have put there; None when nothing."""
    return payloads_of(extra).get(kind)


def with_payload(extra: Mapping[str, Any], kind: str, payload: Any) -> dict[str, Any]:
    """A copy of a conditioning entry's options that carries `payload` for injections of `kind`."""
    held = extra.get("model_conds", {})
    carrier = held.get(KEY, PromptCarrier(PromptRows()))
    payloads = {**carrier.prompt.payloads, kind: payload}
    carrier = PromptCarrier(replace(carrier.prompt, payloads=payloads))
    return {**extra, "model_conds": {**held, KEY: carrier}}


class Injection(Protocol):
    """What an Apply node puts into the model's patch list `KEY`."""

    @property
    def kind(self) -> str:
        """Which injections belong together; also the key of their payloads."""
        ...

    @property
    def label(self) -> str:
        """The node's name, for messages."""
        ...

    @property
    def order(self) -> str:
        """Digest of its content: what several injections add is summed in this order, so the
        order of the nodes in the graph changes no bit."""
        ...

    @property
    def sites(self) -> Sequence[Site]:
        """Where its terms act; none for an injection that edits the text."""
        ...

    def models(self) -> list[ModelPatcher]:
        """Weights for ComfyUI to load, count and offload."""
        ...

    def to(self, device_or_dtype: Any) -> Injection:
        """ComfyUI moves patches; weights belong to the model management, so this is itself."""
        ...

    def check_run(self, prompts: Sequence[PromptRows], options: Mapping[str, Any]) -> None:
        """Raise RuntimeError before the first model call when the run cannot work. options: the
        run's transformer_options."""
        ...

    def edit_text(self, call: Call, text: Tensor) -> Tensor:
        """The call's text (R, T, D), changed or itself."""
        ...

    def terms(self, call: Call) -> list[Term]:
        """What it adds at its sites in this call; nothing while its gate is closed."""
        ...


class Neutral:
    """An injection without an effect: others derive from it and write what they do."""

    kind: str
    label: str

    def models(self) -> list[ModelPatcher]:
        return []

    def to(self, device_or_dtype: Any) -> Any:
        return self

    def check_run(self, prompts: Sequence[PromptRows], options: Mapping[str, Any]) -> None:
        """Accept any run."""

    def edit_text(self, call: Call, text: Tensor) -> Tensor:
        return text

    def terms(self, call: Call) -> list[Term]:
        return []


class WholePrediction(Neutral):
    """An injection that acts on whole predictions, in a wrapper around the guider's own part of a
    step. The wrapper notes its kind in the run's cache."""

    sites: Sequence[Site] = ()
    wraps = "batching of prompts"
    """What of ComfyUI's the wrapper stands around, for the message."""

    def terms(self, call: Call) -> list[Term]:
        """None; but a model call that was not guided must not pass for one that was."""
        if self.kind not in call.run.cache:
            raise RuntimeError(
                f"{self.label} is on this model, but the guider predicts past it: another node "
                f"replaced ComfyUI's {self.wraps}. Remove or bypass that node."
            )
        return []


def injections_of(options: Mapping[str, Any]) -> list[Injection]:
    """The injections in these transformer_options, in the order in which they are summed."""
    return sorted(options.get("patches", {}).get(KEY, []), key=lambda one: (one.kind, one.order))


def register(model: ModelPatcher, injection: Injection) -> None:
    """Put an injection on a clone, with the two wrappers that all injections share."""
    model.set_model_patch(injection, KEY)
    kinds = comfy.patcher_extension.WrappersMP
    for kind, wrapper in ((kinds.OUTER_SAMPLE, open_run), (kinds.APPLY_MODEL, inject_call)):
        if not model.get_wrappers(kind, KEY):
            model.add_wrapper_with_key(kind, KEY, wrapper)


def open_run(executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE wrapper. The guider's conds and model_options are per-run copies by now."""
    guider = executor.class_obj
    prompts = []
    for name, conds in guider.conds.items():
        role: Role = "negative" if "negative" in name else "positive"
        for cond in conds:
            prompts.append(_mark(cond, role))
    options = guider.model_options["transformer_options"]
    for injection in injections_of(options):
        injection.check_run(prompts, options)
    options[RUN] = Run((noise.shape[-2], noise.shape[-1]))
    return executor(noise, *args, **kwargs)


def _mark(cond: dict[str, Any], role: Role) -> PromptRows:
    """Give a prompt its role and length; every prompt gets a carrier, so that all still share one
    model call."""
    held = cond.get("model_conds", {})
    text = cond.get("cross_attn")
    prompt = held[KEY].prompt if KEY in held else PromptRows()
    prompt = replace(
        prompt,
        role=role,
        length=0 if text is None else text.shape[1],
        references=len(cond.get("reference_latents") or ()),
    )
    cond["model_conds"] = {**held, KEY: PromptCarrier(prompt)}
    return prompt


def inject_call(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None = None,
    c_crossattn: Tensor | None = None,
    control: Any = None,
    transformer_options: dict | None = None,
    **conds: Any,
) -> Tensor:
    """APPLY_MODEL wrapper: all that is worked out once per call, outside the blocks.

    x (R, C, h, w) latent, t (R,) sigmas, c_crossattn (R, T, D).
    """
    options = dict(transformer_options or {})
    _restore_indices(options)
    call = read_call(executor.class_obj, x, t, options, conds.pop(KEY, None))
    injections = injections_of(options)
    for injection in injections:
        if c_crossattn is not None:
            c_crossattn = injection.edit_text(call, c_crossattn)
        for term in injection.terms(call):
            for site in term.layers:
                call.added.setdefault(site, []).append(term)
    options[CALL] = call
    out = executor(x, t, c_concat, c_crossattn, control, options, **conds)
    _check_sites(call, injections)
    return out


def _restore_indices(options: dict[str, Any]) -> None:
    """Other packs look up `cond_or_uncond` in lists as long as the guider's: a prompt that is
    predicted once more has the index of its original."""
    originals = options.get(ORIGINALS)
    if originals is not None:
        options["cond_or_uncond"] = [originals[index] for index in options["cond_or_uncond"]]


def with_originals(options: Mapping[str, Any], originals: Sequence[int]) -> dict[str, Any]:
    """These transformer_options for lists of prompts of which the n-th stands for the list
    `originals[n]` of the caller, who may have such lists itself."""
    held = options.get(ORIGINALS)
    kept = originals if held is None else [held[number] for number in originals]
    return {**options, ORIGINALS: tuple(kept)}


def read_call(
    base_model: Any, x: Tensor, t: Tensor, options: Mapping[str, Any], prompts: Any
) -> Call:
    """Rows, time and type of a model call. Costs one device read per call, none per block."""
    run = options.get(RUN) or Run()
    prompts = prompts or _prompts_by_index(options.get("cond_or_uncond"))
    moments = moments_of(run, base_model.model_sampling, t.tolist(), options.get("sample_sigmas"))
    size = (x.shape[-2], x.shape[-1])
    dtype = base_model.get_dtype_inference()
    network = getattr(base_model, "diffusion_model", None)
    hooks = getattr(getattr(base_model, "current_patcher", None), "current_hooks", None)
    facts = (moments, size, x.shape[0], x.device, dtype, network, hooks is not None)
    uuids = tuple(options.get("uuids") or ())
    return Call(run, tuple(prompts), *facts, watch=options.get(WATCH), uuids=uuids)


def _prompts_by_index(cond_or_uncond: Sequence[int] | None) -> list[PromptRows]:
    """Prompts outside a guider, known by their index alone: 0 is positive, 1 negative."""
    return [PromptRows("negative" if index == 1 else "positive") for index in cond_or_uncond or [0]]


def moments_of(
    run: Run, sampling: Any, sigmas: Sequence[float], schedule: Tensor | None
) -> tuple[Moment, ...]:
    """Where in a run these sigmas are; `schedule` is the run's own, if known."""
    if "clock" not in run.cache:
        steps = () if schedule is None else tuple(schedule.tolist())
        is_flow = isinstance(sampling, comfy.model_sampling.CONST)
        run.cache["clock"] = Clock(sampling.percent_to_sigma, steps, is_flow)
    known: dict[float, Moment] = run.cache.setdefault("moments", {})
    for sigma in sigmas:
        if sigma not in known:
            known[sigma] = run.cache["clock"].moment(sigma)
    return tuple(known[sigma] for sigma in sigmas)


def _check_sites(call: Call, injections: Sequence[Injection]) -> None:
    """Every site must have run in the run's first call; a later one may be served by a cache such
    as EasyCache, the first one never is."""
    if call.run.checked:
        return
    call.run.checked = True
    for label in dict.fromkeys(one.label for one in injections):
        sites = {site for one in injections if one.label == label for site in one.sites}
        missed = missed_sites(call, sites)
        if missed:
            names = ", ".join(map(str, missed[:3]))
            raise RuntimeError(
                f"{label} is on this model, but {len(sites) - len(missed)} of its {len(sites)} "
                f"patched blocks ran ({names} did not): another node replaced the model's forward "
                f"or took over those blocks. Remove or bypass that node, or place {label} after it."
            )
