"""A node's bar for work that is counted in bytes, which Cancel stops."""

from collections.abc import Callable

import comfy.model_management
from comfy.utils import ProgressBar


def show_progress() -> Callable[[int, int], None]:
    """Call it with what is done and with all there is; Cancel raises ComfyUI's own exception."""
    bar = ProgressBar(1)

    def show(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return show
