"""Which torch operations run, by name: what may not happen inside a block is looked for there."""

from __future__ import annotations

from typing import Any

import pytest
from flexid.model_patches.inject import sites
from torch.utils._python_dispatch import TorchDispatchMode


class Ops(TorchDispatchMode):
    """Collects the names of the operations that run within it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))


def watch_sites(monkeypatch: pytest.MonkeyPatch) -> Ops:
    """The operations that run while terms are added inside the blocks, from now on."""
    ops, add_terms = Ops(), sites.add_terms

    def watched(*args: Any) -> None:
        with ops:
            add_terms(*args)

    monkeypatch.setattr(sites, "add_terms", watched)
    return ops
