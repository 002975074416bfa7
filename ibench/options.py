"""The command line of the benchmark, checked before any set-up. Standard library only."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from .graphs import SLOTS, Place
from .rows import ROWS, Row, row_of

OUTPUT = Path("flexid-ibench")
MODES = ("corrected", "compat")
ABOUT = "The IBench benchmark with your own models: paints, measures, reports."
EPILOG = """\
data: an evaluation file of IBench; or a folder with identities/NAME/photo.jpg (more photos of a
person are used for copy-paste) and prompts.txt, one a line, or prompts.json; or a folder with
IBench's own *_images.json and *_template.json, chosen with --people and --prompts.

a workflow of your own (--rows mine=FILE, exported in API format): the prompt goes into the node
titled "Prompt", the photo into the Load Image node titled "Photo" (or the only one), the seed into
every input called seed or noise_seed, and the picture comes from the Save Image node titled
"Result" (or the only one). Other places: --slot mine.prompt=12.text mine.photo=4.image
mine.result=20. Its twin without the person is the same graph with all Apply nodes of FlexID
bypassed; without such a node, what is compared with the plain picture is left out.

The same command goes on where it was stopped. Several GPUs: --workers N; several machines: your
own torchrun with COMFYUI_PATH set, and --out in a folder that all of them share. What follows -- is
for ComfyUI itself, such as -- --lowvram."""


def _row(text: str) -> Row:
    try:
        return row_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not name or not sign or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _setting(text: str) -> tuple[str, object]:
    name, value = _pair(text)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _slot(text: str) -> tuple[str, str, Place]:
    name, value = _pair(text)
    row, _, slot = name.rpartition(".")
    if not row or slot not in SLOTS:
        expected = ", ".join(f"ROW.{one}=NODE.INPUT" for one in SLOTS)
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {expected}")
    node, _, entry = value.partition(".")
    if (slot == "result") != (not entry):
        wanted = "NODE alone" if slot == "result" else "NODE.INPUT"
        raise argparse.ArgumentTypeError(f"{text!r}: a {slot} is {wanted}")
    return row, slot, Place(node, entry)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1024")
    return int(text)


def add_options(parser: argparse.ArgumentParser) -> None:
    """All options; `check` looks at what belongs together."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="PATH", help="a folder or a file, see below")
    add("--people", metavar="SET", help="which *_images.json, such as chineseid")
    add("--prompts", metavar="SET", help="which *_template.json, such as human_longer")
    add("--models", type=Path, action="append", default=[], metavar="DIR",
        help="a ComfyUI models folder, before ComfyUI's own; may be repeated")  # fmt: skip
    add("--rows", nargs="+", type=_row, metavar="ROW",
        help=f"of: {', '.join(row.key for row in ROWS)}, given; vfa-W at any weight W; NAME=FILE. "
        "Named rows whose files are absent are refused; without --rows those whose files are there "
        "are painted and the others are listed")  # fmt: skip
    add("--out", type=Path, default=OUTPUT, metavar="DIR", help=f"default: ./{OUTPUT}")
    add("--file", nargs="+", type=_pair, default=[], metavar="NAME=FILE",
        help="another model file in place of one that a workflow names")  # fmt: skip
    add("--set", nargs="+", type=_setting, default=[], metavar="INPUT=VALUE",
        help="a value for every input of that name, such as steps=8 width=768")  # fmt: skip
    add("--slot", nargs="+", type=_slot, default=[], metavar="ROW.SLOT=NODE.INPUT",
        help="where prompt, photo and result of a workflow of yours are")  # fmt: skip
    add("--judge", metavar="PACK", help="face pack that measures (default: the one that is there)")
    add("--mode", choices=MODES, default=MODES[0],
        help="compat: the arithmetic of IBench with its quirks")  # fmt: skip
    add("--seeds", type=_count, default=1, metavar="N",
        help="N pictures of each person and prompt, by different noise; from 2 on the report says "
        "how far two of them differ")  # fmt: skip
    add("--limit", type=_count, metavar="N", help="only the first N people")
    add(
        "--workers", type=_count, default=1, help="processes on this machine, each on a core or GPU"
    )
    add("--cpu", action="store_true", help="do not use a GPU")


def check(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    """End with a message for what argparse cannot tell."""
    rows = [row.key for row in chosen.rows or ()]
    twice = sorted({key for key in rows if rows.count(key) > 1})
    if twice:
        parser.error(f"--rows names {', '.join(twice)} twice; give each row a name of its own")
    for row, slot, _ in chosen.slot:
        if row not in rows:
            parser.error(f"--slot {row}.{slot}: --rows has no {row}, only {', '.join(rows)}")
    for folder in chosen.models:
        if not folder.expanduser().is_dir():
            parser.error(f"--models {folder}: there is no such folder")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="start.py ibench", description=ABOUT)
    add_options(parser)
    chosen = parser.parse_args(arguments)
    check(parser, chosen)
    return chosen
