"""Training data of users: a JSONL file, or a folder of people. Everything is checked on reading.

A row of a JSONL file is one JSON object a line; paths are relative to the file's folder:

    {"image": "ann/1.jpg", "caption": "a woman reads", "references": ["ann/2.jpg"]}
    {"image": "clip/07.png", "caption": "she laughs", "group": "clip", "box": [12, 8, 90, 110]}

`references` (a path or a list) are photos of the same person; without them the other rows of the
same `group` (a clip, a sitting) are, and without a group the image itself. `box` is left, top,
right, bottom of the face and `points` are its five points (eyes, nose, corners of the mouth, left
ones of the picture first), in pixels of the upright image.

A folder of people (data_people.py) has one folder for each person.

A .json file is one array of such rows (data_list.py). `mask`, a grey picture of the image's size,
is white where errors count most; `source` is a folder in front of the row's paths.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .data_example import Example
from .data_list import leaves_folder, list_lines, unify_row
from .data_people import FEWEST_OF_PERSON, read_people
from .data_problems import DataError, Pictures, Problems

__all__ = ["DataError", "Example", "read_data", "read_people", "read_rows"]

KEYS = ("image", "caption", "references", "group", "box", "points", "mask")
LONGEST_LINE = 1 << 20
"""Characters. A longer line is not a row but another kind of file."""
LARGEST = 1e9
"""Largest coordinate; it also keeps out infinite numbers, which JSON can write as 1e999."""


def read_data(
    path: Path, decode: bool = False, fewest: int = FEWEST_OF_PERSON
) -> tuple[Example, ...]:
    """A JSONL file or a folder of people. Raises DataError, which lists all that is wrong.

    decode: read every picture to its end, which takes long but finds those that are cut off.
    fewest: pictures needed of each person of a folder.
    """
    return read_people(path, decode, fewest) if path.is_dir() else read_rows(path, decode)


def read_rows(path: Path, decode: bool = False) -> tuple[Example, ...]:
    """The rows of a JSONL file, in its order. Raises DataError."""
    problems = Problems(path)
    if not path.is_file():
        problems.add(None, "there is no such file or folder. Name a JSONL file or a folder.")
        raise problems.error()
    reader = _Rows(path, problems, Pictures(decode))
    lines = list_lines if path.suffix.lower() == ".json" else _lines
    found = [example for number, line in lines(path, problems) for example in reader(number, line)]
    _check_groups(found, problems)
    if not found and not problems:
        problems.add(None, "it has no rows, at least 1 is needed. Write one JSON object a line.")
    problems.raise_if_any()
    return tuple(found)


def _lines(path: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    """Line numbers and the lines that are not blank."""
    number = 0
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        try:
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    problems.add(
                        number,
                        f"the line has more than {LONGEST_LINE} characters. Write one object a "
                        "line, with paths of images instead of the images.",
                    )
                    return
                if line.strip():
                    yield number, line
        except UnicodeDecodeError as error:
            problems.add(number + 1, f"it is not UTF-8 ({error.reason}). Save the file as UTF-8.")


class _Rows:
    """Turns lines into examples and collects what is wrong."""

    def __init__(self, path: Path, problems: Problems, pictures: Pictures) -> None:
        self.folder, self.problems, self.pictures = path.parent, problems, pictures
        self.seen: dict[str, int] = {}

    def __call__(self, number: int, line: str) -> Iterator[Example]:
        """The line's example, or nothing where something is wrong with it."""
        before = len(self.problems)
        row = self._object(number, line)
        if row is None:
            return
        image = self._image(number, "image", row.get("image"))
        size = self.pictures.size(image) if image else None
        example = Example(
            image or self.folder,
            self._text(number, "caption", row.get("caption")),
            self._references(number, row.get("references")),
            self._text(number, "group", row["group"]) if "group" in row else None,
            self._box(number, row["box"], size) if "box" in row else None,
            self._points(number, row["points"], size) if "points" in row else None,
            number,
            self._mask(number, row["mask"], size) if "mask" in row else None,
        )
        if len(self.problems) == before:
            yield example

    def _object(self, number: int, line: str) -> dict[str, Any] | None:
        try:
            row = json.loads(
                line, object_pairs_hook=_refuse_repeats, parse_constant=_refuse_constant
            )
        except (ValueError, RecursionError) as error:
            what = "too deeply nested" if isinstance(error, RecursionError) else str(error)
            self.problems.add(number, f"it cannot be read as JSON: {what}.")
            return None
        if not isinstance(row, dict):
            self.problems.add(
                number,
                f'it is {_kind(row)}, an object {{"image": ..., "caption": ...}} is needed.',
            )
            return None
        row = unify_row(row, number, self.problems)
        if unknown := sorted(set(row) - set(KEYS)):
            self.problems.add(
                number, f"unknown keys {', '.join(unknown)}; known are {', '.join(KEYS)}."
            )
        text = json.dumps(row, sort_keys=True)
        if first := self.seen.get(text):
            self.problems.add(number, f"it is the same as line {first}. Remove one of them.")
        self.seen.setdefault(text, number)
        return row

    def _text(self, number: int, key: str, value: Any) -> str | None:
        if isinstance(value, str) and value.strip():
            return value.strip()
        found = "an empty text" if isinstance(value, str) else _kind(value)
        self.problems.add(number, f"{key} is {found}, a text is needed.")
        return None

    def _references(self, number: int, value: Any) -> tuple[Path, ...]:
        paths = [value] if isinstance(value, str) else value
        if paths is None:
            return ()
        if not isinstance(paths, list):
            self.problems.add(number, f"references is {_kind(value)}, a list of paths is needed.")
            return ()
        found = (self._image(number, "references", path) for path in paths)
        return tuple(path for path in found if path)

    def _image(self, number: int, key: str, value: Any) -> Path | None:
        if not isinstance(value, str) or not value:
            self.problems.add(number, f"{key} is {_kind(value)}, a path is needed.")
            return None
        if leaves_folder(value):
            self.problems.add(
                number,
                f"{key} is {value!r}, outside of {self.folder}. Write a path relative to that "
                "folder, without '..'.",
            )
            return None
        path = self.folder / value
        if wrong := self.pictures.wrong(path):
            self.problems.add(number, f"{key} {value!r}: {wrong}")
            return None
        return path

    def _mask(self, number: int, value: Any, size: tuple[int, int] | None) -> Path | None:
        path = self._image(number, "mask", value)
        found = self.pictures.size(path) if path else None
        if found and size and found != size:
            self.problems.add(
                number,
                f"mask {value!r} has {found[0]} x {found[1]} pixels, the image {size[0]} x "
                f"{size[1]}. Save it at the image's size.",
            )
        return path

    def _box(
        self, number: int, value: Any, size: tuple[int, int] | None
    ) -> tuple[float, float, float, float] | None:
        if not _is_numbers(value, 4):
            self.problems.add(number, f"box is {_quote(value)}, four finite numbers are needed.")
            return None
        left, top, right, bottom = map(float, value)
        if left >= right or top >= bottom:
            self.problems.add(
                number, f"box is {_quote(value)}, left < right and top < bottom are needed."
            )
        self._check_inside(number, "box", ((left, top), (right, bottom)), size)
        return left, top, right, bottom

    def _points(
        self, number: int, value: Any, size: tuple[int, int] | None
    ) -> tuple[tuple[float, float], ...] | None:
        pairs = isinstance(value, list) and all(_is_numbers(pair, 2) for pair in value)
        if not pairs or len(value) != 5:
            self.problems.add(
                number, f"points is {_quote(value)}, five pairs of finite numbers are needed."
            )
            return None
        points = tuple((float(x), float(y)) for x, y in value)
        self._check_inside(number, "points", points, size)
        return points

    def _check_inside(
        self,
        number: int,
        key: str,
        points: tuple[tuple[float, float], ...],
        size: tuple[int, int] | None,
    ) -> None:
        if size is None:
            return
        width, height = size
        if any(not (0 <= x <= width and 0 <= y <= height) for x, y in points):
            self.problems.add(
                number,
                f"{key} is {_quote(points)}, the image has {width} x {height} pixels. Give the "
                "coordinates in pixels of the upright image.",
            )


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = Counter(key for key, _ in pairs)
    twice = [f"{key} stands in it {count} times" for key, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"{', '.join(twice)}, once is allowed")
    return dict(pairs)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a finite number")


def _is_numbers(value: Any, count: int) -> bool:
    if not isinstance(value, list) or len(value) != count:
        return False
    return all(type(one) in (int, float) and abs(one) <= LARGEST for one in value)


def _kind(value: Any) -> str:
    if value is None:
        return "missing"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text"}
    return {list: "a list", dict: "an object", **names}.get(type(value), type(value).__name__)


def _quote(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def _check_groups(found: list[Example], problems: Problems) -> None:
    sizes = Counter(example.group for example in found if example.group)
    for example in found:
        if example.group and sizes[example.group] == 1 and not example.references:
            problems.add(
                example.line,
                f"the group {example.group!r} has 1 row, at least 2 are needed: another one is the "
                "reference. Name references, or leave group out.",
            )
