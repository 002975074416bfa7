"""Training lists as the codes of EditID and DynamicID read them: one JSON array of {"id_image",
"image", "text"}, or of {"image_file", "text"}.

Each object of the array is read like a line of a JSONL file, under the line that it begins on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from .data_problems import Problems

ALIASES = {
    "id_image": "references", "image_file": "image", "text": "caption", "landmarks": "points"
}  # fmt: skip
"""Names of those lists, and what they are called here."""
PATHS = ("image", "references", "mask")
SPACE = " \t\r\n"


def list_lines(path: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    """Line numbers and texts of the array's objects. What is no array is a problem."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        problems.add(None, f"it is not UTF-8 ({error.reason}). Save the file as UTF-8.")
        return
    place = _skip_space(text, 0)
    if text[place : place + 1] != "[":
        problems.add(None, "it is no JSON array. Write [...], or one object a line into a .jsonl.")
        return
    decoder, closed = json.JSONDecoder(), False
    number, counted = 1, 0
    place = _skip_space(text, place + 1)
    while not closed and text[place : place + 1] != "]":
        number += text.count("\n", counted, place)
        counted = place
        try:
            _, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            problems.add(getattr(error, "lineno", number), f"it cannot be read as JSON: {error}.")
            return
        yield number, text[place:end]
        place = _skip_space(text, end)
        closed = text[place : place + 1] != ","
        place = place if closed else _skip_space(text, place + 1)
    number += text.count("\n", counted, place)
    if text[place : place + 1] != "]":
        problems.add(number, "a comma or the array's end, ], is missing here.")
    elif text[place + 1 :].strip(SPACE):
        problems.add(number, "something follows the array's end. Remove it.")


def _skip_space(text: str, place: int) -> int:
    while text[place : place + 1] and text[place] in SPACE:
        place += 1
    return place


def unify_row(row: dict[str, Any], number: int, problems: Problems) -> dict[str, Any]:
    """The row under our names, with `source`, a folder, in front of its paths."""
    unified: dict[str, Any] = {}
    written: dict[str, str] = {}
    for key, value in row.items():
        name = ALIASES.get(key, key)
        if name in unified:
            problems.add(number, f"{written[name]} and {key} are the same. Keep one of them.")
        written[name] = key
        unified[name] = value
    source = unified.pop("source", "")
    if not isinstance(source, str) or leaves_folder(source):
        problems.add(number, f"source is {source!r}, a folder beside the file is needed.")
        return unified
    if source:
        unified |= {key: _join(source, unified[key]) for key in PATHS if key in unified}
    return unified


def _join(source: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_join(source, one) for one in value]
    inside = isinstance(value, str) and value and not leaves_folder(value)
    return f"{source.rstrip('/')}/{value}" if inside else value


def leaves_folder(value: str) -> bool:
    """Whether a path, written for any operating system, leads out of the folder it is in."""
    windows = PureWindowsPath(value)
    rooted = windows.drive or windows.root or PurePosixPath(value).is_absolute()
    return bool(rooted) or ".." in windows.parts
