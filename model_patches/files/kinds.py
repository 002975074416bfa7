"""Tell what a weight file is from the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from .checks import Shapes
from .tensor_file import TensorFile


@dataclass(frozen=True)
class Kind:
    """A family of weight files: what to call it, where it belongs, and how it is recognised.

    `marks` are regular expressions over lines "key d0,d1,..."; all must be found.
    """

    key: str
    name: str
    advice: str
    marks: tuple[str, ...]


_DYNAMICID_NODE = "Open it with the Load DynamicID node, from models/dynamicid."
_IMR_ADVICE = "Open it with the Load IMR node, from models/dynamicid."
_FLEXIP_NODE = "Open it with the Load FlexIP Adapter node."
_SDXL = "It drives the SDXL UNet and has no layers for Flux; Load Identity Adapter opens it."
_CLIP_NODE = "ComfyUI's own Load CLIP Vision node opens it, for other purposes."
_SIP_NODE = "Open it with the Load SIP Projector node, from models/flexid."
_FACE_T5 = "FaceT5, FaceCLIP's encoder and fuser for Flux"
_FACE_CLIP = "FaceCLIP, the encoders and fusers for SDXL and SD 1.5"
_CONVERTED = "converted by the Convert FaceCLIP node"
_T5_FUSER = r"^encoder_2\.(.*\.)?fuser\.encoder\.fusion_layers\.0\.gamma_l "
_CLIP_FUSER = r"^face_clip_[lg]\.(.*\.)?fuser\.encoder\.fusion_layers\.0\.gamma_l "
_NOT_CONVERTED = r"face_encoder\.mask_token "

# Order matters: what contains whole encoders first, bare encoders last.
KINDS = (
    Kind("face_t5", _FACE_T5, _SIP_NODE, (_T5_FUSER, _NOT_CONVERTED)),
    Kind("face_t5_converted", f"{_FACE_T5}, {_CONVERTED}", _SIP_NODE, (_T5_FUSER,)),
    Kind("face_clip", _FACE_CLIP, _SIP_NODE, (_CLIP_FUSER, _NOT_CONVERTED)),
    Kind("face_clip_converted", f"{_FACE_CLIP}, {_CONVERTED}", _SIP_NODE, (_CLIP_FUSER,)),
    Kind(
        "pulid_flux",
        "a PuLID adapter for Flux",
        "Open it with the Load Identity Adapter node, from models/pulid.",
        (r"^pulid_(encoder|ca)\.",),
    ),
    Kind("pulid_sdxl_v1", "PuLID v1 for SDXL", _SDXL, (r"^id_adapter\.body\.",)),
    Kind(
        "pulid_sdxl_v1.1",
        "PuLID v1.1 for SDXL",
        _SDXL,
        (r"^id_adapter(\.|_attn_layers\.)",),
    ),
    Kind(
        "pulid_sdxl_ipadapter",
        "PuLID v1 for SDXL in the IPAdapter layout",
        _SDXL,
        (r"^image_proj\.(mapping_|body\.)", r"^ip_adapter\.\d+\."),
    ),
    Kind(
        "instantid",
        "the InstantID adapter for SDXL",
        "It needs InstantID's own nodes.",
        (r"^image_proj\.proj_in\.weight \d+,512$", r"^ip_adapter\.\d+\."),
    ),
    Kind(
        "flexip",
        "a FlexIP adapter",
        _FLEXIP_NODE,
        (r"^preserve\.detail\.latents ", r"^blocks\.\w+\.\d+\.\d+\.preserve\.to_k\."),
    ),
    Kind(
        "flexip",
        "a FlexIP adapter for Flux",
        _FLEXIP_NODE,
        (r"^preserve\.detail\.latents ", r"^blocks\.(double|single)\.\d+\.preserve\.to_kv\."),
    ),
    Kind(
        "dynamicid_saa",
        "a DynamicID adapter for SD 1.5 (SAA)",
        _DYNAMICID_NODE,
        (r"^proj_module\.perceiver_resampler\.",),
    ),
    Kind(
        "dynamicid_saa",
        "the attention of DynamicID for SD 1.5 (SAA)",
        _DYNAMICID_NODE,
        (r"^SAA_module\.\d+\.to_",),
    ),
    Kind(
        "dynamicid_imr",
        "the motion reconfigurator of DynamicID (IMR)",
        _IMR_ADVICE,
        (r"^disentangleNet\.\d+\.\d+\.", r"^entangleNet\.\d+\.\d+\."),
    ),
    Kind(
        "dynamicid_keypoints",
        "the keypoint encoder of DynamicID",
        _IMR_ADVICE,
        (r"^blocks\.\d+\.\d+\.conv_block\.0\.weight ",),
    ),
    Kind(
        "ip_adapter_faceid",
        "an IP-Adapter FaceID file for Stable Diffusion",
        _FLEXIP_NODE,
        (r"^ip_adapter\.\d+\.to_(q|k|v|out)_lora\.",),
    ),
    Kind(
        "ip_adapter_flux",
        "an IP-Adapter for Flux",
        "It carries style and content of a picture, not identity; it needs its own node pack.",
        (r"ip_adapter_double_stream",),
    ),
    Kind(
        "ip_adapter",
        "an IP-Adapter for Stable Diffusion",
        _FLEXIP_NODE,
        (r"^(image_proj|ip_adapter)\.",),
    ),
    Kind(
        "redux",
        "a style model (FLUX.1 Redux)",
        "Put it into models/style_models and open it with ComfyUI's Load Style Model node.",
        (r"^redux_(up|down)\.",),
    ),
    Kind(
        "photomaker",
        "a PhotoMaker file",
        "ComfyUI's own PhotoMaker nodes open it.",
        (r"^id_encoder\.", r"^lora_weights\."),
    ),
    Kind(
        "lora",
        "a LoRA",
        "Put it into models/loras and open it with ComfyUI's Load LoRA node.",
        (r"[._](lora_(up|down|A|B|linear)|hada_w1|lokr_w1|lora\.(up|down))",),
    ),
    Kind(
        "controlnet",
        "a ControlNet",
        "Put it into models/controlnet and open it with ComfyUI's Load ControlNet node.",
        (r"^(control_model\.|controlnet_|input_hint_block\.)",),
    ),
    Kind(
        "flux",
        "a Flux base model",
        "Put it into models/diffusion_models and open it with ComfyUI's Load Diffusion Model node.",
        (r"(double_blocks\.0\.img_attn|single_transformer_blocks\.0\.)",),
    ),
    Kind(
        "stable_diffusion",
        "a Stable Diffusion base model",
        "Put it into models/checkpoints and open it with ComfyUI's Load Checkpoint node.",
        (r"^(model\.diffusion_model\.|input_blocks\.\d|down_blocks\.\d)",),
    ),
    Kind(
        "identity",
        "an identity saved by FlexID",
        "Open it with the Load Identity node.",
        (r"^encoding\.\w+\.tokens ", r"^encoding\.\w+\.null "),
    ),
    Kind(
        "identity",
        "an identity saved by FlexID 0.1",
        "Open it with the Load Identity node.",
        (r"^tokens\.\w+ ", r"^unconditional\.\w+ "),
    ),
    Kind(
        "eva02_clip",
        "an EVA02-CLIP vision tower",
        "Open it with the Load EVA-CLIP node, from models/clip_vision.",
        (r"^(visual\.)?blocks\.\d+\.attn\.inner_attn_ln\.", r"^(visual\.)?blocks\.\d+\.mlp\.w1\."),
    ),
    Kind(
        "eva_other",
        "another EVA vision model (not EVA02-CLIP-L with sub-norms)",
        "Its blocks differ from the tower that PuLID was trained with.",
        (r"^(visual\.|trunk\.)?blocks\.\d+\.(attn\.qkv\.|mlp\.fc1\.)",),
    ),
    Kind(
        "open_clip",
        "an OpenAI or OpenCLIP vision and text model",
        _CLIP_NODE,
        (r"^visual\.(transformer\.resblocks|conv1)",),
    ),
    Kind(
        "clip_vision",
        "a CLIP or SigLIP vision encoder in the Hugging Face layout",
        _CLIP_NODE,
        (r"vision_model\.encoder\.layers\.",),
    ),
    Kind(
        "dinov2",
        "a DINOv2 vision encoder",
        _CLIP_NODE,
        (r"^encoder\.layer\.\d+\.(layer_scale|norm1)",),
    ),
    Kind(
        "clip_text",
        "a text encoder",
        "Put it into models/text_encoders and open it with ComfyUI's Load CLIP node.",
        (
            r"(^|\.)(text_model\.encoder\.|encoder\.block\.\d+\.layer\.|text\.transformer\."
            r"|transformer\.resblocks\.\d+\.)",
        ),
    ),
    Kind(
        "vae",
        "a VAE",
        "Put it into models/vae and open it with ComfyUI's Load VAE node.",
        (r"^(first_stage_model\.)?decoder\.(conv_in|up)",),
    ),
)


def find_kind(shapes: Shapes) -> Kind | None:
    """The first kind whose marks all appear; None for an empty or unknown file."""
    text = "\n".join(f"{key} {','.join(map(str, shape))}" for key, shape in shapes.items())
    for kind in KINDS:
        if all(re.search(mark, text, re.MULTILINE) for mark in kind.marks):
            return kind
    return None


def require(file: TensorFile, keys: Collection[str], wanted: str) -> None:
    """Raise ValueError, naming what the file is and where it belongs, unless it is of one of the
    kinds `keys`."""
    shapes = file.shapes
    kind = find_kind(shapes)
    if kind is not None and kind.key in keys:
        return
    if kind is not None:
        raise ValueError(f"{file.path.name} is {kind.name}. {kind.advice} Needed here: {wanted}.")
    if not shapes:
        raise ValueError(f"{file.path.name} holds no tensors at all. Needed here: {wanted}.")
    names = ", ".join(sorted(shapes)[:3])
    raise ValueError(
        f"{file.path.name} is of no known kind: none of its {len(shapes)} tensors ({names}, ...) "
        f"belongs to a model that FlexID knows. Needed here: {wanted}."
    )


def check_prefixes(file: TensorFile, prefixes: tuple[str, ...], name: str, wanted: str) -> None:
    """Raise ValueError when tensors begin with none of the prefixes. name: "a PuLID adapter"."""
    foreign = [key for key in file.tensors if not key.startswith(prefixes)]
    if foreign:
        raise ValueError(
            f"{file.path.name} is {name} with {len(foreign)} tensors that do not belong to it "
            f"({', '.join(foreign[:3])}). Use the unmodified {wanted}."
        )


def select_part(
    file: TensorFile, prefixes: tuple[str, ...], name: str, wanted: str
) -> dict[str, Tensor]:
    """The tensors under the first of the prefixes that is there, without it.

    Raises ValueError when none is. name: "a PuLID adapter".
    """
    for prefix in prefixes:
        part = {k[len(prefix) :]: t for k, t in file.tensors.items() if k.startswith(prefix)}
        if part:
            return part
    names = " or ".join(map(repr, prefixes))
    raise ValueError(
        f"{file.path.name} is half {name}: 0 tensors begin with {names}. Use the unmodified "
        f"{wanted}."
    )
