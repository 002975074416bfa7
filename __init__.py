"""FlexID: identity-preserving image generation for ComfyUI."""

from pathlib import Path

import folder_paths
from comfy_api.latest import ComfyExtension, io

from .nodes import NODES
from .nodes.replacements import register_replacements

WEB_DIRECTORY = "./web"

for _folder in ("pulid", "insightface", "facexlib", "flexid"):
    folder_paths.add_model_folder_path(_folder, str(Path(folder_paths.models_dir) / _folder))


class FlexID(ComfyExtension):
    async def on_load(self) -> None:
        await register_replacements()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> FlexID:
    return FlexID()
