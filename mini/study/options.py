"""The command line of an evaluation, checked before any set-up. Standard library only."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .prompts import all_prompts, choose
from .rows import DTYPES, KNOBS, ROWS, Row, Settings, row_of, settings

SPLITS = {"held-out": 1_000_000, "tune": 900_000}
"""First seed of each set of people. Nothing is ever chosen by a look at the held-out ones."""
PEOPLE, MOST = 100, 100_000
SAMPLING = ("steps", "cfg", "guidance", "dtype")
"""Options that take the place of a value of settings.json."""
FILES = {"json": (".json",), "csv": (".csv",), "png": (".png",)}


def _knob(text: str) -> tuple[str, float]:
    name, sign, value = text.partition("=")
    if name not in KNOBS or not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE with NAME of {KNOBS}")
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} in {text!r} is not a number") from None


def _row(text: str) -> Row:
    try:
        return row_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MOST}")
    return int(text)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Everything that says what is evaluated and where the figures go."""
    add = parser.add_argument_group("what is evaluated").add_argument
    add("--people", type=_count, default=PEOPLE, metavar="N", help=f"default: {PEOPLE}")
    add("--prompts", nargs="+", metavar="ID", choices=[p.id for p in all_prompts()],
        help="only these of mini/study/prompts.json")  # fmt: skip
    keys = ", ".join(row.key for row in ROWS)
    add("--rows", nargs="+", type=_row, metavar="ROW", default=list(ROWS),
        help=f"only these of: {keys}; or vfa-W at any weight W, editid-PRESET")  # fmt: skip
    add("--split", choices=SPLITS, default="held-out", help="tune: people to tune with")
    add("--knob", nargs="+", type=_knob, default=[], metavar="NAME=VALUE",
        help=f"another constant of the gate: {', '.join(KNOBS)}")  # fmt: skip
    add("--steps", type=_count, help="sampling steps (settings.json)")
    add("--cfg", type=float, help="classifier-free guidance (settings.json)")
    add("--guidance", type=float, help="FLUX guidance (settings.json)")
    add("--dtype", choices=DTYPES, help="what FLUX computes in (settings.json)")
    for name in FILES:
        what = {"json": "all figures", "csv": "the table", "png": "the plot"}[name]
        add(f"--{name}", type=Path, metavar="FILE", help=f"write {what} there")


def settings_of(options: argparse.Namespace) -> Settings:
    """How pictures are sampled. Raises ValueError for impossible values."""
    return settings(**{name: getattr(options, name) for name in SAMPLING})


def check(options: argparse.Namespace) -> None:
    """Raises ValueError for what argparse cannot tell."""
    settings_of(options)
    choose(options.prompts)
    for name, endings in FILES.items():
        path = getattr(options, name)
        if path and path.suffix.lower() not in endings:
            raise ValueError(f"--{name} {path}: expected a name that ends in {endings[0]}")
        if path and not path.expanduser().resolve().parent.is_dir():
            raise ValueError(f"--{name} {path}: there is no folder {path.parent}")


def as_arguments(options: argparse.Namespace) -> Sequence[str]:
    """The same options as words, for the process that does it."""
    words = ["--people", str(options.people), "--split", options.split]
    words += ["--rows", *(row.key for row in options.rows)]
    if options.prompts:
        words += ["--prompts", *options.prompts]
    if options.knob:
        words += ["--knob", *(f"{name}={value!r}" for name, value in options.knob)]
    for name in SAMPLING:
        if getattr(options, name) is not None:
            words += [f"--{name}", str(getattr(options, name))]
    for name in FILES:
        if path := getattr(options, name):
            words += [f"--{name}", str(path.expanduser().resolve())]
    return words
