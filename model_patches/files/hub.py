"""The Hugging Face Hub, and plain addresses: what is there, and its bytes, in resumable parts.

All requests go through huggingface_hub, which honours HF_ENDPOINT, HF_TOKEN and proxies. Its
`hf_hub_download` is not used: since 2.0 it throws an interrupted download away.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from .weight_file import WeightFile, format_bytes

Watch = Callable[[int], None]
"""Told the bytes of a file that are there so far; may raise to stop the download."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TRANSPORTS = ("httpx", "httpx2", "requests", "urllib3")
"""Packages whose errors huggingface_hub lets through, by its version."""


class FetchError(RuntimeError):
    """A file could not be fetched. The message names both values and the next step."""


@dataclass(frozen=True)
class Source:
    """Where the bytes of one file come from, and what they must be."""

    row: WeightFile
    url: str
    size: int | None
    sha256: str
    """What the file is checked against; empty when nobody knows."""
    authority: str
    """Who says so: "the pack's table" or "the hub"."""
    headers: dict[str, str] = field(default_factory=dict, repr=False)


def require_online() -> None:
    """Raise FetchError when the user has forbidden the network by HF_HUB_OFFLINE, or when there is
    no huggingface_hub."""
    try:
        from huggingface_hub import constants
    except ImportError as error:
        raise FetchError(
            f"the Python package huggingface_hub could not be imported ({error}). Install the "
            "pack's requirements.txt into ComfyUI's Python and start again."
        ) from error
    if constants.HF_HUB_OFFLINE:
        raise FetchError(
            "HF_HUB_OFFLINE forbids the network, so nothing can be fetched. Unset it and start "
            "again, or put the files into their folders by hand."
        )


def look_up(row: WeightFile) -> Source:
    """Ask the hub for size and hash of a file; for other addresses the table has to know both.

    Raises FetchError when the file is absent, gated, or another one than the table says.
    """
    if not row.path:
        return Source(row, row.url, row.bytes, row.sha256 or "", "the pack's table")
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(row.repo, row.path, revision=row.revision)
    with _explain(row, url):
        found = get_hf_file_metadata(url)
    stated = found.etag if found.etag and _SHA256.fullmatch(found.etag) else ""
    _compare(row, url, "bytes", found.size, row.bytes)
    _compare(row, url, "SHA-256", stated, row.sha256)
    authority = "the pack's table" if row.sha256 else "the hub"
    sha256 = row.sha256 or stated
    return Source(row, url, found.size or row.bytes, sha256, authority, build_hf_headers())


def _compare(
    row: WeightFile, url: str, what: str, found: int | str | None, known: int | str | None
) -> None:
    if found and known and found != known:
        raise FetchError(
            f"{row.file}: {url} now has {what} {found}, the pack's table says {known}. It is "
            "another file, and nothing was fetched. Check HF_ENDPOINT, or update the pack."
        )


def download(source: Source, part: Path, watch: Watch) -> None:
    """Bring `part` to its full length, from where it ends. It stays when this is interrupted.

    Raises FetchError, or what `watch` raises.
    """
    from huggingface_hub.file_download import http_get

    with _explain(source.row, source.url, part), part.open("ab") as file:
        done = file.tell()
        if source.size is not None and done > source.size:
            file.truncate(0)
            done = 0
        http_get(
            source.url,
            cast(BinaryIO, _Watched(file, watch)),
            resume_size=done,
            headers=source.headers,
            expected_size=source.size,
            displayed_filename=source.row.file,
        )


class _Watched:
    """A file that is written to, and tells how long it is after each write."""

    def __init__(self, file: BinaryIO, watch: Watch) -> None:
        self._file = file
        self._watch = watch
        self.seek, self.tell, self.truncate = file.seek, file.tell, file.truncate

    def write(self, chunk: bytes) -> int:
        written = self._file.write(chunk)
        self._watch(self._file.tell())
        return written


@contextmanager
def _explain(row: WeightFile, url: str, part: Path | None = None) -> Iterator[None]:
    """Turn errors of the hub, the network and the disk into a FetchError with the next step."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise FetchError(
            f"{row.file}: {row.page} is gated ({_status(error)}). Log in there, accept its terms, "
            "make a token under Settings, Access Tokens, run `hf auth login` (or set HF_TOKEN), "
            "and start again."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FetchError(
            f"{row.file}: {url} says that there is no repository {row.repo} for you "
            f"({_status(error)}): it is absent, private, or your token is not valid. Check "
            "HF_ENDPOINT and HF_TOKEN."
        ) from error
    except errors.HfHubHTTPError as error:
        raise FetchError(
            f"{row.file}: {url} answers {_status(error)}, expected 200. Look at {row.page} in a "
            f"browser: the file may have moved. {_by_hand(row)}"
        ) from error
    except OSError as error:
        raise FetchError(_describe_failure(row, url, part, error)) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _TRANSPORTS:
            raise
        raise FetchError(_describe_failure(row, url, part, error)) from error


def _status(error: Exception) -> str:
    response = getattr(error, "response", None)
    return f"status {response.status_code}" if response is not None else "no status"


def _by_hand(row: WeightFile) -> str:
    name = f" as {row.file}" if row.is_renamed else ""
    return f"By hand: put {row.url} into models/{row.folder}{name}."


def _describe_failure(row: WeightFile, url: str, part: Path | None, error: Exception) -> str:
    kept = part.stat().st_size if part is not None and part.exists() else 0
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            f"{row.file}: the disk is full after {format_bytes(kept)} of {row.size}. Free some "
            "space and start again; what is there is kept."
        )
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{row.file}: cannot write {part}: {error.strerror}. Make that folder writable."
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    endpoint = os.environ.get("HF_ENDPOINT")
    return (
        f"{row.file}: {url} could not be read to its end ({reason}); {format_bytes(kept)} are "
        "there. Start again: it goes on from there. If it stays so, check the network"
        f"{f' and HF_ENDPOINT ({endpoint})' if endpoint else ''}. {_by_hand(row)}"
    )
