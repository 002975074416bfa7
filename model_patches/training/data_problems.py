"""Collects all problems of training data, and checks whether a file is a picture."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

SHOWN = 50
"""Problems that an error lists; the others are counted."""
ORIENTATION = 0x0112
TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


class DataError(ValueError):
    """Training data that cannot be used. The message lists what is wrong, and where."""


class Problems:
    """The problems of one file or folder; true once there is one."""

    def __init__(self, source: Path) -> None:
        self.source, self.count = source, 0
        self.listed: list[str] = []

    def __len__(self) -> int:
        return self.count

    def add(self, place: int | str | None, what: str) -> None:
        """place: a line number, a path within the folder, or None for all of it."""
        self.count += 1
        if len(self.listed) < SHOWN:
            where = {int: f"{self.source}:{place}", str: f"{self.source}/{place}"}
            self.listed.append(f"{where.get(type(place), self.source)}: {what}")

    def error(self) -> DataError:
        rest = self.count - len(self.listed)
        return DataError("\n".join([*self.listed, *[f"and {rest} more"] * bool(rest)]))

    def raise_if_any(self) -> None:
        if self.count:
            raise self.error()


class Pictures:
    """Opens each picture once, however many rows name it."""

    def __init__(self, decode: bool) -> None:
        """decode: read pictures to their end, not their header alone."""
        self.decode = decode
        self.known: dict[Path, tuple[int, int] | str] = {}

    def size(self, path: Path) -> tuple[int, int] | None:
        """Width and height of the upright picture; None when it is not one."""
        found = self._look(path)
        return None if isinstance(found, str) else found

    def wrong(self, path: Path) -> str | None:
        """Why it cannot be used, with the next step; None for a good one."""
        found = self._look(path)
        return found if isinstance(found, str) else None

    def _look(self, path: Path) -> tuple[int, int] | str:
        if path not in self.known:
            self.known[path] = self._open_image(path)
        return self.known[path]

    def _open_image(self, path: Path) -> tuple[int, int] | str:
        try:
            if not path.is_file():  # opening a pipe would wait for ever
                return "there is no such file. Correct the path, or remove the row."
            with Image.open(path) as picture:
                if self.decode:
                    picture.load()
                # Without the first test, PNG files are decoded to look for it behind the pixels.
                turned = "exif" in picture.info and picture.getexif().get(ORIENTATION) in TURNED
                width, height = picture.size
        except UnidentifiedImageError:
            return "it is not an image. Convert it to PNG or JPEG, or remove it."
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return f"it cannot be read ({error}). Replace or remove it."
        return (height, width) if turned else (width, height)
