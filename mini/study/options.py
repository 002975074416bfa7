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
SUITES = ("flexip", "editid", "dynamicid")
"""Evaluations of their own, which choose the rows and write their files into a folder."""
OPEN_SUITES = ("editid",)
"""Those that measure other rows where they are named."""
FILES = {"json": (".json",), "csv": (".csv",), "png": (".png",)}
PATHS = ("out", "join", "ablation", *FILES)


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
    add("--rows", nargs="+", type=_row, metavar="ROW",
        help=f"only these of: {keys}; or vfa-W and plain-W at any weight W, flexip-B at a "
        "balance B, vfa-W+flexip-B, editid-PRESET, query-MODE-A, mix-PRESET, id-guidance, "
        "id-guidance-S-vfa-W, id-cfg-S-vfa-W, adapter-NAME-W")  # fmt: skip
    add("--ablation", type=Path, metavar="DIR", help="a folder of adapter files, for rows "
        "adapter-NAME-W; the suite editid wants --work of editid-ablation")  # fmt: skip
    add("--suite", choices=SUITES, help="flexip: FlexIP's slider against a plain IP-Adapter's; "
        "editid: what EditIDv2 adds, against the line of constant weights; dynamicid: one "
        "person and two by SAA and IMR, against plain cross-attention")  # fmt: skip
    add("--join", type=Path, metavar="FILE", help="with the suite editid: editid.json of another "
        "run of the same people, prompts and settings, whose other rows are kept")  # fmt: skip
    add("--out", type=Path, metavar="DIR", help="where a suite writes its files")
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
    if (options.suite is None) != (options.out is None):
        raise ValueError("--suite and --out go together: a suite writes several files")
    if options.suite:
        closed = () if options.suite in OPEN_SUITES else ("rows",)
        if given := next((n for n in (*closed, *FILES) if getattr(options, n)), None):
            raise ValueError(
                f"--suite {options.suite} chooses its rows and files; leave out --{given}"
            )
    if options.join and options.suite not in OPEN_SUITES:
        raise ValueError(
            f"--join {options.join} with --suite {options.suite}: expected the suite "
            f"{', '.join(OPEN_SUITES)}, whose rows can be painted in several runs"
        )
    _check_paths(options)


def _check_paths(options: argparse.Namespace) -> None:
    named = next((row for row in options.rows or () if row.anchor == "adapter"), None)
    if named and not options.ablation:
        raise ValueError(
            f"the row {named.key} needs --ablation DIR, the folder of {named.adapter}.safetensors"
        )
    if options.ablation and not options.ablation.expanduser().is_dir():
        raise ValueError(f"--ablation {options.ablation}: there is no such folder")
    if options.out and not options.out.expanduser().resolve().parent.is_dir():
        raise ValueError(f"--out {options.out}: there is no folder {options.out.parent}")
    for name, endings in FILES.items():
        path = getattr(options, name)
        if path and path.suffix.lower() not in endings:
            raise ValueError(f"--{name} {path}: expected a name that ends in {endings[0]}")
        if path and not path.expanduser().resolve().parent.is_dir():
            raise ValueError(f"--{name} {path}: there is no folder {path.parent}")


def as_arguments(options: argparse.Namespace) -> Sequence[str]:
    """The same options as words, for the process that does it."""
    words = ["--people", str(options.people), "--split", options.split]
    if options.rows:
        words += ["--rows", *(row.key for row in options.rows)]
    if options.suite:
        words += ["--suite", options.suite]
    if options.prompts:
        words += ["--prompts", *options.prompts]
    if options.knob:
        words += ["--knob", *(f"{name}={value!r}" for name, value in options.knob)]
    for name in SAMPLING:
        if getattr(options, name) is not None:
            words += [f"--{name}", str(getattr(options, name))]
    for name in PATHS:
        if path := getattr(options, name):
            words += [f"--{name}", str(path.expanduser().resolve())]
    return words
