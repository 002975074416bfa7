"""What is known of one public weight file, and of files that are needed together."""

from __future__ import annotations

from dataclasses import dataclass

HUB = "https://huggingface.co"
APACHE, MIT = "Apache-2.0", "MIT"
FACEXLIB = "Apache-2.0 (facexlib; the weights state no terms of their own)"
FREE = (APACHE, MIT, FACEXLIB)
"""Licences that allow any use. All others are accepted by the user before anything is fetched."""


@dataclass(frozen=True)
class WeightFile:
    """One public file."""

    file: str
    folder: str
    """Folder below ComfyUI's models folder, with forward slashes."""
    repo: str
    """Hugging Face repository, or GitHub repository for release files."""
    licence: str
    needed_for: str
    """What in this pack reads it."""
    revision: str | None = None
    """Commit of a Hugging Face repository, or release tag of a GitHub one; None: not pinned."""
    bytes: int | None = None
    """Size of the file, after unpacking where the address is an archive."""
    sha256: str | None = None
    """Hex digits of the file's SHA-256, after unpacking where the address is an archive."""
    listed: str = ""
    """Rounded size that the repository's page lists, where the exact one is not recorded."""
    path: str = ""
    """Path inside the Hugging Face repository; empty for release files."""
    url: str = ""
    """Direct address of the file, or of the archive that holds it."""
    also: tuple[str, ...] = ()
    """Other model folders in which the nodes find the file as well."""

    @property
    def is_free(self) -> bool:
        """Whether its licence allows any use, as far as this table knows."""
        return self.licence in FREE

    @property
    def page(self) -> str:
        """The page of the repository, with the terms."""
        return f"{HUB if self.path else 'https://github.com'}/{self.repo}"

    @property
    def is_archived(self) -> bool:
        """Whether the address is an archive that has to be unpacked by hand."""
        return self.url.endswith(".zip")

    @property
    def is_renamed(self) -> bool:
        """Whether the file has another name at its address."""
        return not self.is_archived and not self.url.endswith(f"/{self.file}")

    @property
    def size(self) -> str:
        """The size for people, such as "1.14 GB"; "?" where it is not known."""
        return format_bytes(self.bytes) if self.bytes else self.listed or "?"


@dataclass(frozen=True)
class FileSet:
    """Files that are needed together."""

    about: str
    rows: tuple[WeightFile, ...]


def format_bytes(count: int) -> str:
    """Bytes in decimal units with three digits, as the hub's pages show them: "1.14 GB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * size:  # what rounds up to the larger unit is shown in it
            return f"{count / size:#.3g}".rstrip(".") + f" {unit}"
    return f"{count} bytes"
