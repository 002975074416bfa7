"""Reads a benchmark: IBench's three kinds of JSON files, or a plain folder of people and prompts.

IBench's files name photos by absolute paths of their authors' machine. Such a photo is looked for
by its file name in the folder that is read.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from .records import EXPRESSIONS, GENDERS, UNKNOWN, VIEWS, Data, DataError, Pair, Person, Prompt

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
PEOPLE_FILES, PROMPT_FILES = "*_images.json", "*_template.json"
LAYOUT = (
    "expected an evaluation file of IBench (.json), a folder with identities/<name>/photo.jpg and "
    "prompts.txt or prompts.json, or a folder with IBench's *_images.json and *_template.json"
)


def read_data(path: Path, people: str | None = None, prompts: str | None = None) -> Data:
    """Whatever lies at `path`.

    people, prompts: names of IBench's sets, such as "chineseid" and "human_longer"; needed where
    a folder has several. Raises DataError for anything that cannot be used.
    """
    path = path.expanduser().resolve()
    if path.is_file():
        return read_evaluation(path)
    if not path.is_dir():
        raise DataError(f"--data {path}: there is no such file or folder; {LAYOUT}.")
    if (path / "identities").is_dir():
        _refuse_sets(path, people, prompts)
        return read_folder(path)
    sets = [_find_set(path, *what) for what in _name_sets(people, prompts)]
    return _combine(f"{sets[0].stem}, {sets[1].stem}", *_read_sets(path, *sets))


def _name_sets(people: str | None, prompts: str | None) -> list[tuple[str, str, str | None]]:
    return [("--people", PEOPLE_FILES, people), ("--prompts", PROMPT_FILES, prompts)]


def _refuse_sets(path: Path, people: str | None, prompts: str | None) -> None:
    for option, _, name in _name_sets(people, prompts):
        if name:
            raise DataError(f"{option} {name}: {path} is a plain folder, which has no named sets.")


def _find_set(folder: Path, option: str, pattern: str, name: str | None) -> Path:
    found = sorted(folder.rglob(pattern))
    ending = pattern[1:]
    wanted = [one for one in found if name in (None, one.name.removesuffix(ending))]
    if len(wanted) == 1:
        return wanted[0]
    if not found:
        raise DataError(f"{folder} has 0 files {pattern}; {LAYOUT}.")
    names = ", ".join(one.name.removesuffix(ending) for one in found)
    what = f"{len(wanted)} of them are called {name}" if name else "choose one"
    raise DataError(f"{folder} has {len(found)} files {pattern}, {what}: {option} of {names}.")


def read_folder(folder: Path) -> Data:
    """identities/<name>/ with one or more photos each, and prompts.txt (one a line) or .json.

    Every person gets every prompt. Photos after the first, by name, show how the person looks
    elsewhere. Raises DataError for a person without a photo.
    """
    people = []
    for place in sorted((folder / "identities").iterdir()):
        if place.name.startswith("."):
            continue
        photos = [place] if place.is_file() else sorted(place.iterdir())
        photos = [one for one in photos if one.suffix.lower() in PICTURES]
        if not photos:
            raise DataError(
                f"{place} has 0 photos ({', '.join(PICTURES)}), expected 1 or more. Put one there, "
                "or remove the folder."
            )
        people.append(Person(place.stem if place.is_file() else place.name, tuple(photos)))
    files = [folder / name for name in ("prompts.json", "prompts.txt")]
    found = [file for file in files if file.is_file()]
    if len(found) != 1:
        raise DataError(f"{folder} has {len(found)} of prompts.txt and prompts.json, expected 1.")
    return _combine(folder.name, people, read_prompts(found[0]), [])


def read_prompts(file: Path) -> list[Prompt]:
    """A line each, or a JSON list, or IBench's {"datas": [...]}; # begins a comment of a .txt."""
    if file.suffix == ".txt":
        lines = (line.strip() for line in _read_text(file).splitlines())
        return [Prompt(line) for line in lines if line and not line.startswith("#")]
    content = _load(file)
    entries = content.get("datas") if isinstance(content, Mapping) else content
    if not isinstance(entries, list):
        raise DataError(f'{file} is no list of prompts and has no list "datas".')
    return [_read_prompt(file, number, one) for number, one in enumerate(entries, 1)]


def _read_prompt(file: Path, number: int, entry: Any) -> Prompt:
    if isinstance(entry, str):
        entry = {"prompt": entry}
    text = entry.get("prompt") if isinstance(entry, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        raise DataError(f'{file}: entry {number} has {text!r} as "prompt", expected some text.')
    seed = entry.get("seed")
    if seed is not None and (not isinstance(seed, int) or not 0 <= seed < 2**64):
        raise DataError(f"{file}: entry {number} has the seed {seed!r}, expected 0 to 2^64 - 1.")
    return Prompt(
        text,
        _words(entry, "prompt_attr"),
        _words(entry, "prompt_style"),
        seed,
        _choose(file, number, entry, "expression", EXPRESSIONS),
        _choose(file, number, entry, "view", VIEWS),
        _read_degrees(file, number, entry, "yaw_deg"),
        _read_degrees(file, number, entry, "pitch_deg"),
    )


def _choose(
    file: Path, number: int, entry: Mapping[str, Any], key: str, choices: Sequence[str]
) -> str | None:
    found = entry.get(key)
    if found is not None and found not in choices:
        raise DataError(
            f"{file}: entry {number} has the {key} {found!r}; choose one of {', '.join(choices)}, "
            "or leave it out."
        )
    return found


def _read_degrees(file: Path, number: int, entry: Mapping[str, Any], key: str) -> float | None:
    found = entry.get(key)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not -180 <= found <= 180:
        raise DataError(f"{file}: entry {number} has the {key} {found!r}, expected -180 to 180.")
    return float(found)


def _words(entry: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = entry.get(key) or ()
    return (found,) if isinstance(found, str) else tuple(map(str, found))


def _read_sets(
    root: Path, people_file: Path, prompts_file: Path
) -> tuple[list[Person], list[Prompt], list[str]]:
    finder = PhotoFinder(root)
    people = []
    for number, entry in enumerate(_entries(people_file), 1):
        photo = finder.find(people_file, number, entry.get("id"))
        people.append(Person(photo.stem, (photo,), _gender(people_file, number, entry)))
    return _with_own_names(people), read_prompts(prompts_file), finder.notes()


def _with_own_names(people: Sequence[Person]) -> list[Person]:
    """Photos of one name in several folders are several people: they get their folder's name."""
    counts = Counter(one.name for one in people)
    return [
        one
        if counts[one.name] == 1
        else Person(f"{one.photos[0].parent.name}/{one.name}", one.photos, one.gender)
        for one in people
    ]


def _gender(file: Path, number: int, entry: Mapping[str, Any]) -> str:
    gender = entry.get("gender") or UNKNOWN
    if gender not in GENDERS:
        raise DataError(f"{file}: entry {number} has the gender {gender!r}: {', '.join(GENDERS)}.")
    return gender


def read_evaluation(file: Path) -> Data:
    """IBench's evaluation file: finished pictures, with or without the person, photo and prompt.

    A row is a pair; what it lacks of the two pictures may be painted. Placeholders are filled in
    such files already. The entry "tags", without which IBench's own measures stop, may be absent.
    """
    finder = PhotoFinder(file.parent)
    pairs = []
    for number, entry in enumerate(_entries(file), 1):
        photo = finder.find(file, number, entry.get("id"))
        person = Person(photo.stem, (photo,), _gender(file, number, entry))
        pictures = [
            finder.find(file, number, entry[key]) if entry.get(key) else None
            for key in ("imagewithid", "imagewithoutid")
        ]
        pairs.append(Pair(person, _read_prompt(file, number, entry), *pictures))
    return Data(file.name, _check_pairs(file, pairs), tuple(finder.notes()))


def _check_pairs(source: Path, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """Each pair once. Raises DataError for none, or for finished pictures of some pairs only."""
    kept = list({(one.person.photos, one.prompt.text): one for one in pairs}.values())
    if not kept:
        raise DataError(f"{source} has 0 rows, expected 1 or more.")
    for name in ("given", "plain"):
        count = sum(getattr(one, name) is not None for one in kept)
        if count not in (0, len(kept)):
            word = {"given": "imagewithid", "plain": "imagewithoutid"}[name]
            raise DataError(
                f"{source} has {len(kept)} rows and {count} pictures {word}, expected as many, or "
                "none. Add what is missing, or remove the entry from all rows."
            )
    return tuple(kept)


def _combine(
    source: str, people: Sequence[Person], prompts: Sequence[Prompt], notes: Sequence[str]
) -> Data:
    if not people or not prompts:
        raise DataError(
            f"{source} has {len(people)} people and {len(prompts)} prompts, expected 1 or more of "
            "each."
        )
    known = list(dict.fromkeys(prompts))
    if len(known) < len(prompts):
        notes = [*notes, f"{len(prompts) - len(known)} prompts came twice and count once"]
    pairs = tuple(Pair(person, prompt) for person in people for prompt in known)
    return Data(source, pairs, tuple(notes))


class PhotoFinder:
    """Finds pictures by paths of another machine, below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.by_name: dict[str, list[Path]] | None = None
        self.moved = 0

    def find(self, file: Path, number: int, stated: Any) -> Path:
        """Raises DataError where nothing, or more than one picture, has that name."""
        if not isinstance(stated, str) or not stated:
            raise DataError(f"{file}: entry {number} names {stated!r} as a picture, expected text.")
        if (beside := file.parent / stated).is_file():  # an absolute path stays as it is
            return beside.resolve()
        # Windows' parts are also those of other systems' paths.
        parts = PureWindowsPath(stated).parts if "\\" in stated else PurePosixPath(stated).parts
        found = self._look(parts[-1])
        for depth in range(2, len(parts) + 1):
            if len(found) > 1:
                found = [one for one in found if one.parts[-depth:] == parts[-depth:]] or found
        if len(found) != 1:
            raise DataError(
                f"{file}: entry {number} names {stated}, and {self.root} has {len(found)} files "
                f"{parts[-1]}, expected 1. Put the picture there, or write its path from "
                f"{file.parent}."
            )
        self.moved += 1
        return found[0]

    def _look(self, name: str) -> list[Path]:
        if self.by_name is None:
            self.by_name = {}
            for path in sorted(self.root.rglob("*")):
                if path.suffix.lower() in PICTURES:
                    self.by_name.setdefault(_one_spelling(path.name), []).append(path)
        return self.by_name.get(_one_spelling(name), [])

    def notes(self) -> list[str]:
        if not self.moved:
            return []
        return [f"{self.moved} pictures are named by paths of another machine; found by file name"]


def _one_spelling(name: str) -> str:
    """Some systems store an accented letter as two characters."""
    return unicodedata.normalize("NFC", name)


def _entries(file: Path) -> list[Mapping[str, Any]]:
    content = _load(file)
    found = content.get("datas") if isinstance(content, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise DataError(f'{file} has no list "datas" of entries; is it one of IBench\'s files?')
    return found


def _load(file: Path) -> Any:
    try:
        return json.loads(_read_text(file))
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}.") from error


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8: {error}. Save it as UTF-8.") from error
