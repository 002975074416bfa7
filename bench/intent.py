"""Reading a prompt's editing intent: milliseconds per prompt, over the labelled prompts."""

import json
import statistics
import time
from argparse import Namespace
from pathlib import Path

from flexid.model_patches.gates.cag import Knobs, gates_for
from flexid.model_patches.gates.gate import Moment
from flexid.model_patches.gates.intent.intent import read_intent

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
LONG = 400
"""Characters from which a prompt is long: about 100 tokens of T5."""


def measure(options: Namespace) -> list[dict]:
    prompts = {language: _prompts(language) for language in ("en", "zh")}
    everything = [prompt for each in prompts.values() for prompt in each]
    started = time.perf_counter()
    read_intent("a smile")
    compiled = time.perf_counter() - started
    groups = {
        "English": [prompt for prompt in prompts["en"] if len(prompt) < LONG],
        "Chinese": prompts["zh"],
        "no edit found": [p for p in everything if not read_intent(p).matches],
        "joined to 600 characters": _joined(prompts["en"], 600),
    }
    rows = [_row(name, group, options.rounds) for name, group in groups.items()]
    rows.append({"prompts": "compiling the dictionary, once", "ms each": 1e3 * compiled})
    rows.append({"prompts": "both gates, one step", "ms each": _gate_ms(options.rounds)})
    return rows


def _prompts(language: str) -> list[str]:
    text = (DATA / f"intent_{language}.json").read_text(encoding="utf-8")
    return [prompt["text"] for prompt in json.loads(text)]


def _joined(prompts: list[str], length: int) -> list[str]:
    text = ". ".join(prompts)
    return [text[i : i + length] for i in range(0, len(text) - length, length)]


def _row(name: str, prompts: list[str], rounds: int) -> dict:
    return {
        "prompts": name,
        "count": len(prompts),
        "characters": statistics.mean(map(len, prompts)),
        "ms each": _ms(lambda: [read_intent(prompt) for prompt in prompts], rounds) / len(prompts),
    }


def _gate_ms(rounds: int) -> float:
    semantic, visual = gates_for(0.5, Knobs())
    moment = Moment(0.7, 0.4, 0.4, 0.7)
    return _ms(lambda: (semantic.weight(moment), visual.weight(moment)), 100 * rounds)


def _ms(run, rounds: int) -> float:
    """Median milliseconds of one call."""
    times = []
    for _ in range(max(rounds, 3)):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)
