"""Summarises training data, or lists everything that is wrong with them."""

import argparse
import runpy
import sys
from collections import Counter
from pathlib import Path


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="check-data", description=__doc__)
    add = parser.add_argument
    add("path", type=Path, help="a JSONL file, or a folder with one folder for each person")
    add("--decode", action="store_true", help="read every picture to its end; takes long")
    return parser.parse_args(arguments)


def summary(path: Path, decode: bool) -> str:
    """Raises DataError."""
    from flexid.model_patches.training.data import read_data

    examples = read_data(path, decode)
    groups = Counter(example.group for example in examples if example.group)
    counts = {
        "examples": len(examples),
        "pictures": len({p for e in examples for p in (e.image, *e.references)}),
        "with a caption": sum(example.caption is not None for example in examples),
        "with references of their own": sum(bool(example.references) for example in examples),
        "with a box": sum(example.box is not None for example in examples),
        "with a mask": sum(example.mask is not None for example in examples),
        "with points": sum(example.points is not None for example in examples),
        "people" if path.is_dir() else "groups": len(groups),
    }
    lines = [f"{path}: nothing is wrong", *(f"{n:8} {what}" for what, n in counts.items())]
    if groups:
        few, many = min(groups.values()), max(groups.values())
        lines[-1] += f", of {few} to {many} pictures"
    return "\n".join(lines) + "\n"


def main() -> None:
    chosen = parse(sys.argv[1:])
    runpy.run_path(str(Path(__file__).with_name("pack.py")))["open_pack"]()
    from flexid.model_patches.training.data import DataError

    try:
        sys.stdout.write(summary(chosen.path, chosen.decode))
    except DataError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
