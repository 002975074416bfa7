"""Write DynamicID's pickles as safetensors of the same keys, which open at once and run no code."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from ..files.atomic import converting
from ..files.kinds import require
from ..files.tensor_file import read_weights

KINDS = ("dynamicid_saa", "dynamicid_imr", "dynamicid_keypoints")
WANTED = (
    "SAA.bin, IMR.bin or key_point_encoder.bin from "
    "https://huggingface.co/meteorite2023/DynamicID, in models/dynamicid"
)


def convert_dynamicid(source: str | Path, target: str | Path) -> Path:
    """Write `target` with the tensors of one of the three files; returns its path.

    Nested names are joined with dots, such as SAA_module.0.to_q_lora.down.weight; types and values
    stay. Written beside the target and moved there when whole; nothing is overwritten. Raises
    FileNotFoundError, FileExistsError, ValueError (not a DynamicID file, or the target is the
    source), OSError.
    """
    source, target = Path(source), Path(target)
    with converting(source, target) as temporary:
        file = read_weights(source, WANTED)
        require(file, KINDS, WANTED)
        tensors = {key: tensor.contiguous().clone() for key, tensor in file.tensors.items()}
        save_file(tensors, temporary, {"flexid.converted_from": source.name})
    return target
