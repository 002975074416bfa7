"""FlexID: identity-preserving image generation for ComfyUI."""

import logging

from comfy_api.latest import ComfyExtension, io

from .model_patches.face.packages import describe_missing
from .nodes import NODES
from .nodes.model_files import register_folders
from .nodes.replacements import register_replacements

WEB_DIRECTORY = "./web"

register_folders()


class FlexID(ComfyExtension):
    async def on_load(self) -> None:
        await register_replacements()
        if missing := describe_missing():
            logging.warning("FlexID: all nodes are loaded. %s", missing)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> FlexID:
    return FlexID()
