"""Open DynamicID's IMR.bin and key_point_encoder.bin, or the same networks for other face tokens,
and edit face tokens with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import torch
from torch import Tensor, nn

from ..files.checks import Shapes, count_layers, shape_of, shapes_of
from ..files.kinds import require
from ..files.modules import build
from ..files.tensor_file import TensorFile, digest, read_weights
from .imr_nets import HEAD, UNITS, ImrDims, KeypointEncoder, Reconfigurator, as_seen
from .imr_settings import ImrSettings, read_settings

WANTED_IMR = (
    "IMR.bin from https://huggingface.co/meteorite2023/DynamicID, or what Convert DynamicID made "
    "of it, in models/dynamicid"
)
WANTED_KEYPOINTS = WANTED_IMR.replace("IMR.bin", "key_point_encoder.bin")
SIZED = ("disentangleNet.", "entangleNet.")


@dataclass(frozen=True, eq=False)
class Motion:
    """What a face does: what is seen of it, and what words say."""

    landmarks: Tensor
    """(96, 96) uint8, 255 at each landmark."""
    words: Tensor
    """(768,) pooled text of the text encoder that the editor reads."""


@dataclass(frozen=True, eq=False)
class MotionEditor:
    """Both files. ComfyUI owns the weights through the two patchers."""

    name: str
    """File name of the reconfigurator."""
    digest: str
    """Content digests of both files."""
    reconfigurator: comfy.model_patcher.ModelPatcher
    """Holds a Reconfigurator."""
    keypoints: comfy.model_patcher.ModelPatcher
    """Holds a KeypointEncoder."""
    settings: ImrSettings = ImrSettings()
    """Whose tokens it edits."""

    @property
    def patcher(self) -> comfy.model_patcher.ModelPatcher:
        """Where ComfyUI's caches look for a model's patcher."""
        return self.reconfigurator

    @property
    def dims(self) -> ImrDims:
        return self.reconfigurator.model.dims


def load_editor(path: str | Path, keypoints: str | Path) -> MotionEditor:
    """Open IMR.bin and key_point_encoder.bin, or safetensors of the same keys.

    Sizes are read from the tensors, what they cannot tell from the metadata. Raises
    FileNotFoundError or ValueError: other kinds of files are refused with what they are, and files
    that do not fit each other with both sizes.
    """
    file = _open_file(path, "dynamicid_imr", WANTED_IMR)
    settings = read_settings(file)
    reconfigurator = _build_reconfigurator(file, False)
    encoder = load_keypoints(keypoints)
    made = encoder.model.blocks[-1][-1].conv_block[0].out_channels
    wanted = reconfigurator.model.dims.landmarks
    if made != wanted:
        raise ValueError(
            f"{Path(keypoints).name} makes {made} features of landmarks, {Path(path).name} reads "
            f"{wanted}. Use the two files of one release."
        )
    digests = f"{digest(path)} {digest(keypoints)}"
    return MotionEditor(Path(path).name, digests, reconfigurator, encoder, settings)


def load_reconfigurator(
    path: str | Path, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The reconfigurator alone; ComfyUI rebuilds it from the file this way, too."""
    file = _open_file(path, "dynamicid_imr", WANTED_IMR)
    return _build_reconfigurator(file, disable_dynamic)


def load_keypoints(
    path: str | Path, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The keypoint encoder alone. BatchNorm needs its weights in the picture's own type."""
    file = _open_file(path, "dynamicid_keypoints", WANTED_KEYPOINTS)
    tensors = {
        key: tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in file.tensors.items()
    }
    make = partial(KeypointEncoder, _read_kernels(shapes_of(tensors), file.path.name))
    return _build(make, file, tensors, WANTED_KEYPOINTS, load_keypoints, disable_dynamic)


def edit_tokens(
    editor: MotionEditor, tokens: Tensor, source: Motion, targets: Sequence[Motion]
) -> Tensor:
    """tokens (1, N, width) of a face that does `source` -> (T, N, width), CPU float32, one face for
    each target."""
    patchers = [editor.reconfigurator, editor.keypoints]
    comfy.model_management.load_models_gpu(patchers)
    device = editor.reconfigurator.load_device
    motions = [source, *targets]
    pictures = torch.stack([one.landmarks for one in motions])
    words = torch.stack([one.words for one in motions]).to(device, torch.float32)
    with torch.no_grad():
        seen = editor.keypoints.model(as_seen(pictures.to(editor.keypoints.load_device)))
        net = editor.reconfigurator.model
        fused = net.fuse(seen.to(device), words)
        edited = net(tokens.to(device, torch.float32), fused[:1], fused[1:])
    return edited.to("cpu", torch.float32)


def _open_file(path: str | Path, kind: str, wanted: str) -> TensorFile:
    file = read_weights(path, wanted)
    require(file, (kind,), wanted)
    return file


def _build_reconfigurator(
    file: TensorFile, disable_dynamic: bool
) -> comfy.model_patcher.ModelPatcher:
    text = read_settings(file).text
    make = partial(Reconfigurator, _read_dims(file.shapes, text, file.path.name))
    return _build(make, file, file.tensors, WANTED_IMR, load_reconfigurator, disable_dynamic)


def _build(
    make: Callable[..., nn.Module],
    file: TensorFile,
    tensors: Mapping[str, Tensor],
    wanted: str,
    load: Callable[..., comfy.model_patcher.ModelPatcher],
    disable_dynamic: bool,
) -> comfy.model_patcher.ModelPatcher:
    rebuild = (load, (file.path,))
    return build(make, tensors, file.path.name, wanted, rebuild, disable_dynamic)


def _read_dims(shapes: Shapes, text: int, what: str) -> ImrDims:
    """text: channels of the text; 0: those of a face token."""

    def read(key: str, rank: int = 2) -> tuple[int, ...]:
        return shape_of(shapes, key, rank, what, WANTED_IMR)

    dim, width = read("proj_in.weight")
    text = text or width
    inner = read("disentangleNet.0.0.to_q.weight")[0]
    fused, both = read("feature_fusion.1.weight")
    made = read("feature_fusion.4.weight")[0]
    depths = [count_layers(shapes, prefix, what, WANTED_IMR) for prefix in SIZED]
    if inner % HEAD or made % dim or both <= text or depths[0] != depths[1]:
        raise ValueError(
            f"{what} does not fit together: attention of {inner} channels in heads of {HEAD}, "
            f"{made} channels for motion tokens of {dim}, {both} channels of landmarks and text "
            f"where the text has {text}, {depths[0]} and {depths[1]} blocks. Use the unmodified "
            f"{WANTED_IMR}."
        )
    return ImrDims(
        width=width,
        dim=dim,
        inner=inner,
        hidden=read("disentangleNet.0.2.1.weight")[0],
        depth=depths[0],
        landmarks=both - text,
        text=text,
        motion=made // dim,
        fused=fused,
    )


def _read_kernels(shapes: Shapes, what: str) -> list[list[tuple[int, int, int]]]:
    """(before, after, kernel) of every unit; strides and sums are the published ones."""
    kernels = []
    for block, units in enumerate(UNITS):
        found = []
        for unit in range(units):
            key = f"blocks.{block}.{unit}.conv_block.0.weight"
            after, before, kernel, _ = shape_of(shapes, key, 4, what, WANTED_KEYPOINTS)
            found.append((before, after, kernel))
        kernels.append(found)
    return kernels
