"""Reading a prompt's editing intent: milliseconds per prompt, over the labelled prompts."""

from __future__ import annotations

import json
import statistics
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from flexid.model_patches.gates.cag import Knobs, gates_for
from flexid.model_patches.gates.gate import Moment
from flexid.model_patches.gates.intent.intent import read_intent

from .clock import median_seconds, seconds_of
from .plan import Allowance, Plan, Row, rounds_in

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
LONG = 400
"""Characters from which a prompt is long: about 100 tokens of T5."""
GATE_CALLS = 100
"""Both gates take microseconds: so many calls count as one."""


def prepare(options: Namespace, allowance: Allowance) -> Plan:
    compiled = seconds_of(lambda: read_intent("a smile"))
    groups = _group_prompts()
    seconds = seconds_of(lambda: [_read(group) for group in groups.values()])
    rounds = rounds_in(allowance.left(), seconds, options.rounds)

    def measure() -> list[Row]:
        rows = [_row(name, group, allowance, rounds) for name, group in groups.items()]
        once = {"prompts": "compiling the dictionary, once", "ms each": 1e3 * compiled}
        gates = median_seconds(_gates(), allowance.rounds(rounds)) / GATE_CALLS
        return [*rows, once, {"prompts": "both gates, one step", "ms each": 1e3 * gates}]

    count = sum(map(len, groups.values()))
    return Plan(rounds * seconds, f"{rounds} rounds of {count} prompts", measure)


def _group_prompts() -> dict[str, list[str]]:
    prompts = {language: _read_prompts(language) for language in ("en", "zh")}
    everything = [prompt for each in prompts.values() for prompt in each]
    return {
        "English": [prompt for prompt in prompts["en"] if len(prompt) < LONG],
        "Chinese": prompts["zh"],
        "no edit found": [p for p in everything if not read_intent(p).matches],
        "joined to 600 characters": _join_prompts(prompts["en"], 600),
    }


def _read_prompts(language: str) -> list[str]:
    text = (DATA / f"intent_{language}.json").read_text(encoding="utf-8")
    return [prompt["text"] for prompt in json.loads(text)]


def _join_prompts(prompts: list[str], length: int) -> list[str]:
    text = ". ".join(prompts)
    return [text[i : i + length] for i in range(0, len(text) - length, length)]


def _read(prompts: Sequence[str]) -> None:
    for prompt in prompts:
        read_intent(prompt)


def _row(name: str, prompts: list[str], allowance: Allowance, rounds: int) -> Row:
    seconds = median_seconds(lambda: _read(prompts), allowance.rounds(rounds))
    return {
        "prompts": name,
        "count": len(prompts),
        "characters": statistics.mean(map(len, prompts)),
        "ms each": 1e3 * seconds / len(prompts),
    }


def _gates() -> Callable[[], object]:
    semantic, visual = gates_for(0.5, Knobs())
    moment = Moment(0.7, 0.4, 0.4, 0.7)
    return lambda: [(semantic.weight(moment), visual.weight(moment)) for _ in range(GATE_CALLS)]
