"""A small cache of tensors by content key, bounded in bytes, that counts its work."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

import torch
from torch import Tensor

Entry = TypeVar("Entry", bound="tuple[Tensor | str, ...]")
"""Tensors, and text that belongs to them."""


@dataclass(frozen=True)
class Statistics:
    """`runs`: entries that were computed; `hits`: lookups that needed no computing."""

    runs: int
    hits: int


class TensorCache(Generic[Entry]):
    """Least recently used entries go first once `max_bytes` is exceeded. Safe across threads.

    Entries are shared, not copied: whoever gets one must not write into it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, Entry] = OrderedDict()
        self._lock = Lock()
        self._runs = self._hits = 0

    @property
    def statistics(self) -> Statistics:
        return Statistics(self._runs, self._hits)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> Entry | None:
        """The entry, or None; a find counts as a hit."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
                self._hits += 1
            return entry

    def put(self, key: Hashable, entry: Entry) -> Entry:
        """Store a newly computed entry (counts as a run) and return it."""
        with self._lock:
            self._runs += 1
            self._entries[key] = entry
            while len(self._entries) > 1 and self._count_bytes() > self._max_bytes:
                self._entries.popitem(last=False)
        return entry

    def clear(self) -> None:
        """Forget every entry; the counts stay."""
        with self._lock:
            self._entries.clear()

    def _count_bytes(self) -> int:
        return sum(_count_size(part) for entry in self._entries.values() for part in entry)


def _count_size(part: Tensor | str) -> int:
    """In bytes; text is counted by its characters."""
    return len(part) if isinstance(part, str) else part.numel() * part.element_size()


def tensor_key(tensor: Tensor) -> str:
    """Digest of a tensor's type, shape and content."""
    flat = tensor.detach().cpu().contiguous()
    state = hashlib.sha256(f"{flat.dtype} {tuple(flat.shape)}".encode())
    state.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()
