"""ComfyUI in this process, without a server: its nodes, its cache, its care for memory.

A graph runs as a queue entry of the same graph would, so a picture here is the one that the page
paints. Nothing listens on any port.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import importlib
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..model_patches.files.tensor_file import digest
from .graphs import Graph, Place, pictures_of, title_of

ROOT = Path(__file__).resolve().parents[1]
CATCH = "FlexIDBenchCatch"
"""Takes the place of the node that saves the result."""
ENDINGS = (".safetensors", ".sft", ".pt", ".pth", ".bin", ".ckpt", ".gguf", ".onnx")
FACE_PACKS, FACE_ANALYSER = "insightface", "FlexIDLoadFaceAnalyser"
SHOWN = 8
"""Names that an error lists at most."""


class PaintError(RuntimeError):
    """A graph that ComfyUI began and could not finish."""


class Painter:
    """The models of one run. `work` keeps what ComfyUI reads and writes besides models."""

    def __init__(self, work: Path, models: Sequence[Path], kinds: Iterable[str]) -> None:
        """kinds: class_type of all nodes that will be needed; custom nodes load for unknown ones.

        COMFYUI_PATH's tree is on the path already, see setup/pack.py.
        """
        importlib.import_module("utils.extra_config")  # nodes hides it behind comfy/utils.py
        import comfy.model_management
        import execution
        import folder_paths
        import server

        import nodes

        self.input = work / "input"
        for name in ("input", "output", "temp", "user"):
            (work / name).mkdir(parents=True, exist_ok=True)
            getattr(folder_paths, f"set_{name}_directory")(str(work / name))
        self.folders = folder_paths
        self.nodes = nodes.NODE_CLASS_MAPPINGS
        self.execution = execution
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.caught: list[Tensor] = []
        self.device: torch.device = comfy.model_management.get_torch_device()
        instance = server.PromptServer(self.loop)
        self._load_nodes(nodes, set(kinds))
        _add_models(folder_paths, models)
        self.nodes[CATCH] = make_catch(self.caught)
        self.executor = execution.PromptExecutor(
            instance,
            cache_type=execution.CacheType.CLASSIC,
            cache_args={"lru": 0, "ram": 0, "ram_inactive": 0},
        )
        self.numbers = itertools.count()

    def _load_nodes(self, nodes: Any, kinds: set[str]) -> None:
        run = self.loop.run_until_complete
        run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
        if not run(nodes.load_custom_node(str(ROOT), module_parent="custom_nodes")):
            raise PaintError(f"ComfyUI could not load {ROOT}; its messages stand above.")
        if kinds - self.nodes.keys():
            run(nodes.init_external_custom_nodes())

    def list_problems(self, graph: Graph, result: Place) -> list[str]:
        """What ComfyUI refuses about a graph, such as absent files; empty where it would run."""
        unknown = {
            node["class_type"] for node in graph.values() if node["class_type"] not in self.nodes
        }
        if unknown:
            return [f"no node pack here has {name}" for name in sorted(unknown)]
        made, _ = self._catch(graph, result)
        check = self.execution.validate_prompt("check", made, None)
        valid, error, _, by_node = self.loop.run_until_complete(check)
        found = [
            _describe(title_of(made[key]), one)
            for key, entry in by_node.items()
            for one in entry["errors"]
        ]
        if not valid and not found:
            found = [f"{error['message']} {error.get('details', '')}".strip()]
        return list(dict.fromkeys(found))

    def paint(self, graph: Graph, result: Place) -> Tensor:
        """(H, W, 3) in [0, 1].

        Raises PaintError with the words of the node that failed, for pixels that are not finite,
        and for anything but one picture.
        """
        self.caught.clear()
        made, sink = self._catch(graph, result)
        name = f"ibench-{next(self.numbers)}"
        self.loop.run_until_complete(self.executor.execute_async(made, name, {}, [sink]))
        if not self.executor.success:
            raise PaintError(_explain(made, self.executor.status_messages))
        count = sum(len(one) for one in self.caught)
        if count != 1:
            raise PaintError(f"the graph gave {count} pictures, expected 1; set its batch to 1.")
        picture = self.caught[0][0].detach().float().cpu()
        self.caught.clear()
        if not torch.isfinite(picture).all():
            raise PaintError(
                "the picture holds NaN or infinite pixels, expected 0. A VAE in fp16 does that: "
                "use the bf16 or fp32 file, or -- --fp32-vae."
            )
        return picture.clamp(0, 1)[..., :3]

    def _catch(self, graph: Graph, result: Place) -> tuple[Graph, str]:
        """The graph with its result caught in place of saved, and the number of that node."""
        link = pictures_of(graph, result.node)
        made = copy.deepcopy(graph)  # ComfyUI writes into what it runs
        made[result.node] = {"class_type": CATCH, "inputs": {"images": link}}
        return made, result.node

    def put_photo(self, path: Path) -> str:
        """Copy a photo to where graphs find it; its name there, which its content decides."""
        content = path.read_bytes()
        name = hashlib.sha256(content).hexdigest()[:24] + path.suffix.lower()
        target = self.input / name
        if not target.exists():
            partial = target.with_suffix(f".{os.getpid()}.part")
            partial.write_bytes(content)
            os.replace(partial, target)
        return name

    def name_files(self, graph: Graph) -> dict[str, str]:
        """Model files that a graph names -> digest of a sample of their content."""
        found = {}
        for node in graph.values():
            for value in node["inputs"].values():
                if (
                    isinstance(value, str)
                    and value.lower().endswith(ENDINGS)
                    and value not in found
                ):
                    path = self._find_file(value)
                    found |= {value: digest(path)} if path else {}
            if node["class_type"] == FACE_ANALYSER:
                found |= self._name_pack(node["inputs"].get("pack", ""))
        return found

    def _name_pack(self, pack: str) -> dict[str, str]:
        roots = self.folders.get_folder_paths(FACE_PACKS) if pack else []
        files = [one for root in roots for one in (Path(root) / "models" / pack).rglob("*.onnx")]
        return {f"{pack}/{one.name}": digest(one) for one in sorted(files)}

    def _find_file(self, value: str) -> Path | None:
        for name in self.folders.folder_names_and_paths:
            if path := self.folders.get_full_path(name, value):
                return Path(path)
        return None


def make_catch(caught: list[Tensor]) -> type:
    """A ComfyUI node that keeps the pictures it gets."""

    class Catch:
        RETURN_TYPES = ()
        FUNCTION = "catch"
        OUTPUT_NODE = True
        CATEGORY = "FlexID/evaluate"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
            return {"required": {"images": ("IMAGE",)}}

        @classmethod
        def IS_CHANGED(cls, images: object) -> float:  # noqa: N802 - ComfyUI's name
            return float("nan")  # never cached: the same picture may be asked for twice

        def catch(self, images: Tensor) -> dict[str, Any]:
            caught.append(images)
            return {}

    return Catch


def _add_models(folders: Any, models: Sequence[Path]) -> None:
    """The first one given goes before all others; what ComfyUI's settings add comes last."""
    settings = Path(folders.base_path) / "extra_model_paths.yaml"
    if settings.is_file():
        from utils.extra_config import load_extra_path_config

        load_extra_path_config(str(settings))
    for folder in reversed(models):
        for kind in sorted(path for path in folder.iterdir() if path.is_dir()):
            folders.add_model_folder_path(kind.name, str(kind), is_default=True)


def _describe(title: str, error: Mapping[str, Any]) -> str:
    extra = error.get("extra_info") or {}
    if error.get("type") != "value_not_in_list":
        return f"{title}: {error.get('message', '')} {error.get('details', '')}".strip()
    choices = (extra.get("input_config") or [[]])[0]
    if isinstance(choices, str):  # COMBO: the choices are among the options
        choices = (extra["input_config"][1] or {}).get("options", [])
    names = [str(one) for one in choices]
    listed = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return (
        f"{title} lacks {extra.get('received_value')} ({extra.get('input_name')}; there are "
        f"{listed or 'none'})"
    )


def _explain(graph: Graph, messages: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    for kind, data in messages:
        if kind == "execution_error":
            title = title_of(graph[data["node_id"]]) if data["node_id"] in graph else "a node"
            return f"{title}: {str(data['exception_message']).strip()}"
    return "ComfyUI stopped without an error message"
