"""Fetch public files when the user asks for it: checked first, resumable, verified, atomic.

Nothing is ever overwritten, and only files of the table can be fetched.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .atomic import place
from .hub import FetchError, Source, Watch, download, look_up, require_online
from .places import Folders, find_file, is_intact, target_of
from .public_files import SETS, WEIGHTS
from .weight_file import WeightFile, format_bytes

Say = Callable[[str], None]
"""Takes one line for the console."""
Progress = Callable[[int, int], None]
"""Told the bytes that are there so far, and of how many; may raise to stop. What is there stays."""

SPARE = 200_000_000
"""Bytes of a disk that are left free."""
POLL_SECONDS = 0.5
_BLOCK = 4 << 20


def choose(names: Sequence[str]) -> tuple[WeightFile, ...]:
    """The rows behind names of sets and files. Raises FetchError, listing all, for another name."""
    files = {row.file: (row,) for row in WEIGHTS}
    known = {name: chosen.rows for name, chosen in SETS.items()} | files
    for name in names:
        if name not in known:
            raise FetchError(
                f"{name!r} is neither a set of files ({', '.join(SETS)}) nor a file "
                f"({', '.join(files)}). Choose one of those."
            )
    return tuple(dict.fromkeys(row for name in names for row in known[name]))


def describe_terms(rows: Sequence[WeightFile]) -> str:
    """One line for each licence that does not allow any use: files, terms, page. Empty: none."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if not row.is_free:
            groups.setdefault((row.licence, row.page), []).append(row.file)
    return "\n".join(
        f"{', '.join(files)}: {licence}; {page}" for (licence, page), files in groups.items()
    )


def find_missing(rows: Sequence[WeightFile], folders: Folders) -> list[WeightFile]:
    """The rows whose files are in none of their folders."""
    return [row for row in rows if find_file(row, folders) is None]


def describe_state(rows: Sequence[WeightFile], folders: Folders) -> str:
    """One line for each file: where it is, or what it is for and where it would go."""
    return "\n".join(_describe_row(row, find_file(row, folders)) for row in rows)


def _describe_row(row: WeightFile, path: Path | None) -> str:
    if path is None:
        by_hand = f" By hand, from {row.url}." if row.is_archived else ""
        return (
            f"missing: {row.file} ({row.size}), for models/{row.folder}. {row.needed_for}. "
            f"Licence: {row.licence}.{by_hand}"
        )
    if is_intact(row, path):
        return f"there: {row.file}, {path}"
    return (
        f"damaged: {row.file} has {path.stat().st_size} bytes, expected {row.bytes}: {path}. Move "
        "it away and fetch it again."
    )


def fetch(
    rows: Sequence[WeightFile], folders: Folders, consent: bool, say: Say, progress: Progress
) -> str:
    """Fetch what is missing of `rows` into the folders that ComfyUI names; the report.

    consent: whether the user has accepted the licences that do not allow any use. Before the first
    byte: licences, network, every file's size and hash on the hub, free disk. What has come before
    an error or an interrupt stays, and the next call goes on from there. Raises FetchError.
    """
    missing = find_missing(rows, folders)
    _refuse_archives(missing)
    _require_consent(missing, consent)
    if missing:
        require_online()
    jobs = [_plan(row, folders) for row in missing]
    _require_space(jobs)
    total, before, lines = sum(job.size for job in jobs), 0, {}
    progress = _tell_tenths(progress, say)
    for number, job in enumerate(jobs, 1):
        say(f"file {number} of {len(jobs)}: {job.row.file}, {format_bytes(job.size)}, {job.target}")
        watch = _shift(progress, before, total)
        lines[job.row] = f"{_fetch_one(job, say, watch)}: {job.row.file}, {job.target}"
        before += job.size
    return "\n".join(lines.get(row) or _describe_row(row, find_file(row, folders)) for row in rows)


def _tell_tenths(progress: Progress, say: Say) -> Progress:
    """Say each tenth as well where huggingface_hub draws no bar: its bar needs a terminal."""
    if sys.stderr.isatty():
        return progress
    told = 0

    def show(done: int, total: int) -> None:
        nonlocal told
        tenths = 10 * done // total if total else 0
        if tenths > told:
            told = tenths
            say(f"{tenths}0 %: {format_bytes(done)} of {format_bytes(total)}")
        progress(done, total)

    return show


def _shift(progress: Progress, before: int, total: int) -> Watch:
    return lambda done: progress(before + done, total)


def _refuse_archives(rows: Sequence[WeightFile]) -> None:
    for row in rows:
        if row.is_archived:
            raise FetchError(
                f"{row.file} comes in an archive, which is not unpacked here. Unpack {row.url} "
                f"into models/{row.folder}, or fetch the set vfa, whose face pack is antelopev2."
            )


def _require_consent(rows: Sequence[WeightFile], consent: bool) -> None:
    terms = describe_terms(rows)
    if terms and not consent:
        raise FetchError(
            f"These files have terms that you have to accept first:\n{terms}\nRead them. To "
            "accept, turn on accept_licences on the node, or add --accept-licences to the command."
        )


@dataclass(frozen=True)
class _Job:
    """One file to fetch."""

    source: Source
    target: Path

    @property
    def row(self) -> WeightFile:
        return self.source.row

    @property
    def size(self) -> int:
        return self.source.size or 0

    @property
    def part(self) -> Path:
        """What is there of it. Another version of the file gets another part."""
        tag = self.source.sha256[:12] or "unchecked"
        return self.target.with_name(f"{self.target.name}.{tag}.part")

    @property
    def lock(self) -> Path:
        return self.target.with_name(f".{self.target.name}.lock")

    @property
    def needed(self) -> int:
        """Bytes that are still to come."""
        there = self.part.stat().st_size if self.part.exists() else 0
        return max(0, self.size - there)


def _plan(row: WeightFile, folders: Folders) -> _Job:
    target = target_of(row, folders)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FetchError(
            f"{row.file}: cannot make the folder {target.parent}: {error.strerror}. Make it by "
            "hand, or name another place in extra_model_paths.yaml."
        ) from error
    return _Job(look_up(row), target)


def _require_space(jobs: Sequence[_Job]) -> None:
    """Raise FetchError unless each disk has room for all that goes onto it."""
    disks: dict[int, list[_Job]] = {}
    for job in jobs:
        disks.setdefault(job.target.parent.stat().st_dev, []).append(job)
    for shared in disks.values():
        folder = shared[0].target.parent
        needed, free = sum(job.needed for job in shared), shutil.disk_usage(folder).free
        if needed + SPARE > free:
            raise FetchError(
                f"{len(shared)} files need {format_bytes(needed)} and {format_bytes(SPARE)} to "
                f"spare on the disk of {folder}, which has {format_bytes(free)} free. Nothing was "
                "fetched. Free some space, or name a folder on another disk in "
                "extra_model_paths.yaml."
            )


def _fetch_one(job: _Job, say: Say, watch: Watch) -> str:
    """Fetch, check and place one file; the first words of its line in the report."""
    with _hold(job, say, watch):
        if job.target.exists():  # another process was faster
            return "there"
        download(job.source, job.part, watch)
        checked = _verify(job, watch)
        try:
            place(job.part, job.target)
        except FileExistsError:
            job.part.unlink()
            return "there"
        return f"fetched ({format_bytes(job.target.stat().st_size)}, {checked})"


@contextmanager
def _hold(job: _Job, say: Say, watch: Watch) -> Iterator[None]:
    """Be the only process that fetches this file; while another one does, wait for it."""
    from filelock import FileLock, SoftFileLock

    lock, announced = FileLock(job.lock), False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=POLL_SECONDS)
        except TimeoutError:
            if not announced:
                say(f"another process fetches {job.row.file} already; waiting for it")
                announced = True
            watch(0)
        except NotImplementedError:  # network folders without flock
            lock = SoftFileLock(job.lock)
    try:
        yield
    finally:
        if job.target.exists():  # whoever waits for the lock finds the file, so the lock may go
            with suppress(OSError):  # Windows keeps it while it is open
                job.lock.unlink()
        lock.release()


def _verify(job: _Job, watch: Watch) -> str:
    """Compare the SHA-256; what was compared. A wrong part is removed. Raises FetchError."""
    wanted, authority = job.source.sha256, job.source.authority
    if not wanted:
        return "its hash was not checked: neither the pack's table nor the hub states one"
    state = hashlib.sha256()
    with job.part.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
            watch(job.size)
    if state.hexdigest() == wanted:
        return f"SHA-256 as {authority} says"
    job.part.unlink()
    raise FetchError(
        f"{job.row.file} has SHA-256 {state.hexdigest()}, but {authority} says {wanted}. The "
        "damaged download was removed. Start again; if it stays so, check HF_ENDPOINT and proxies."
    )
