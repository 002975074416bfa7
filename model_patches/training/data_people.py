"""A folder of people: one folder for each person, with their pictures.

For each picture NAME.png, if wanted, NAME.txt holds its caption, and NAME_landmark.png draws the
landmarks of its face, as DynamicID's data have it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ..face.landmark_image import SIDE
from .data_example import Example
from .data_problems import Pictures, Problems

FEWEST_OF_PERSON = 2
"""Pictures needed of each person: one to show, another one to draw."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
IGNORED = ("thumbs.db", "desktop.ini")
"""Files that operating systems add; those with a leading dot likewise."""
LANDMARKS = "_landmark"


def read_people(
    folder: Path, decode: bool = False, fewest: int = FEWEST_OF_PERSON
) -> tuple[Example, ...]:
    """Every picture of every person, sorted by person and file name. Raises DataError.

    decode: read every picture to its end; fewest: pictures needed of each person.
    """
    problems, pictures = Problems(folder), Pictures(decode)
    found: list[Example] = []
    for entry in _entries(folder):
        if entry.is_dir():
            found += _read_person(entry, problems, pictures, fewest)
        else:
            problems.add(entry.name, "a file beside the folders of people. Move it into one.")
    if not found and not problems:
        problems.add(None, "no folder of a person in it. Make one for each person.")
    problems.raise_if_any()
    return tuple(found)


def _entries(folder: Path) -> list[Path]:
    hidden = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in hidden if path.name.lower() not in IGNORED)


def _read_person(
    folder: Path, problems: Problems, pictures: Pictures, fewest: int
) -> list[Example]:
    entries = _entries(folder)
    drawn = _find_landmarks(entries)
    entries = [path for path in entries if path not in drawn.values()]
    images = [path for path in entries if path.suffix.lower() in PICTURES]
    stems = Counter(path.stem for path in images)
    for path in entries:
        place = f"{folder.name}/{path.name}"
        if path in images:
            if wrong := pictures.wrong(path):
                problems.add(place, wrong)
        elif path.suffix.lower() != ".txt":
            problems.add(place, f"neither a picture ({', '.join(PICTURES)}) nor .txt. Remove it.")
        elif stems[path.stem] != 1:
            problems.add(place, f"{stems[path.stem]} pictures have that name, 1 is needed.")
    for landmarks in drawn.values():
        _check_landmarks(landmarks, pictures, problems)
    if len(images) < fewest:
        problems.add(
            folder.name,
            f"{len(images)} pictures of this person, at least {fewest} are needed. Add "
            "some, or remove the folder.",
        )
    return [
        Example(
            path,
            _caption(path, problems),
            (),
            folder.name,
            None,
            None,
            0,
            landmarks=drawn.get(path),
        )
        for path in images
    ]


def _find_landmarks(entries: list[Path]) -> dict[Path, Path]:
    """Pictures of which another file draws the landmarks, and that file."""
    stems = {path.stem: path for path in entries if path.suffix.lower() in PICTURES}
    return {
        path: stems[f"{stem}{LANDMARKS}"]
        for stem, path in stems.items()
        if f"{stem}{LANDMARKS}" in stems
    }


def _check_landmarks(path: Path, pictures: Pictures, problems: Problems) -> None:
    place = f"{path.parent.name}/{path.name}"
    if wrong := pictures.wrong(path):
        problems.add(place, wrong)
    elif (found := pictures.size(path)) != (SIDE, SIDE):
        width, height = found or (0, 0)
        problems.add(
            place,
            f"the picture of landmarks has {width} x {height} pixels, {SIDE} x {SIDE} are needed. "
            "Draw it anew, or remove it: landmarks are then detected.",
        )


def _caption(image: Path, problems: Problems) -> str | None:
    path = image.with_suffix(".txt")
    if not path.is_file():
        return None
    place = f"{path.parent.name}/{path.name}"
    try:
        caption = path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        problems.add(place, f"it is not UTF-8 ({error.reason}). Save it as UTF-8.")
        return None
    if not caption:
        problems.add(place, "the caption is empty. Write one, or remove the file.")
    return caption
