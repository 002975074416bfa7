"""The public weight files: where each comes from, where it goes, how to recognise it.

Sizes and digests are those that several independent public projects pin for the same address;
they are None where no such record was found. This module downloads nothing; `fetch` does, from
this table and from nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence

from .weight_file import APACHE, FACEXLIB, HUB, MIT, FileSet, WeightFile

RESEARCH_ONLY = "non-commercial research only (insightface model terms)"
FACECLIP_TERMS = "CC BY-NC 4.0"
FLUX_DEV = "FLUX.1 [dev] Non-Commercial License"
UNSTATED = "none stated on the repository's page"


def _hub(
    path: str,
    folder: str,
    repo: str,
    licence: str,
    needed_for: str,
    revision: str | None = None,
    size: int | None = None,
    sha256: str | None = None,
    listed: str = "",
    also: tuple[str, ...] = (),
    name: str = "",
) -> WeightFile:
    return WeightFile(
        name or path.rpartition("/")[2],
        folder,
        repo,
        licence,
        needed_for,
        revision,
        size,
        sha256,
        listed,
        path,
        f"{HUB}/{repo}/resolve/{revision or 'main'}/{path}",
        also,
    )


def _release(
    file: str,
    folder: str,
    repo: str,
    tag: str,
    licence: str,
    needed_for: str,
    size: int,
    sha256: str,
    asset: str = "",
) -> WeightFile:
    url = f"https://github.com/{repo}/releases/download/{tag}/{asset or file}"
    return WeightFile(file, folder, repo, licence, needed_for, tag, size, sha256, url=url)


def _antelope(file: str, needed_for: str, size: int, sha256: str) -> WeightFile:
    return _hub(
        file,
        "insightface/models/antelopev2",
        "DIAMONIK7777/antelopev2",
        RESEARCH_ONLY,
        needed_for,
        revision="ba0c3e10f4548361eb9a63265d87ce1140ab5a05",
        size=size,
        sha256=sha256,
    )


def _buffalo(file: str, needed_for: str, size: int, sha256: str) -> WeightFile:
    return _release(
        file,
        "insightface/models/buffalo_l",
        "deepinsight/insightface",
        "v0.7",
        RESEARCH_ONLY,
        needed_for,
        asset="buffalo_l.zip",
        size=size,
        sha256=sha256,
    )


_SCRFD_10G = "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91"
_DETECTOR = "Load Face Analyser: the detector"
_RECOGNISER = "Load Face Analyser: the recogniser"

ANTELOPEV2 = (
    _antelope("scrfd_10g_bnkps.onnx", _DETECTOR, 16_923_827, _SCRFD_10G),
    _antelope(
        "glintr100.onnx",
        _RECOGNISER,
        260_665_334,
        "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf",
    ),
)
"""The two of the pack's five files that are read here; the others are landmarks, age and gender."""

BUFFALO_L = (
    _buffalo("det_10g.onnx", _DETECTOR, 16_923_827, _SCRFD_10G),
    _buffalo(
        "w600k_r50.onnx",
        _RECOGNISER,
        174_383_860,
        "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
    ),
    _buffalo(
        "2d106det.onnx",
        "Load Face Analyser: the landmarks",
        5_030_888,
        "f001b856447c413801ef5c42091ed0cd516fcd21f2d6b79635b1e733a7109dbf",
    ),
)

PARSING_BISENET = _release(
    "parsing_bisenet.pth",
    "facexlib",
    "xinntao/facexlib",
    "v0.2.0",
    FACEXLIB,
    "Load Face Analyser: the head's outline (optional)",
    size=53_289_463,
    sha256="468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
)

PULID_FLUX_091 = _hub(
    "pulid_flux_v0.9.1.safetensors",
    "pulid",
    "guozinan/PuLID",
    APACHE,
    "Load Identity Adapter: VFA on Flux.1",
    revision="492b1451255dc9d9bc3c857259690b5f8b998d4a",
    size=1_142_099_520,
    sha256="92c41c3af322b02e58e1b32842e4601e08c8f16ec1fe80089dbe957df510f51d",
)

PULID_FLUX_090 = _hub(
    "pulid_flux_v0.9.0.safetensors",
    "pulid",
    "guozinan/PuLID",
    APACHE,
    "Load Identity Adapter: the version before 0.9.1",
    listed="1.14 GB",
)

EVA02_CLIP_L_336 = _hub(
    "EVA02_CLIP_L_336_psz14_s6B.pt",
    "clip_vision",
    "QuanSun/EVA-CLIP",
    MIT,
    "Load EVA-CLIP: what PuLID sees of a face",
    revision="11afd202f2ae80869d6cef18b1ec775e79bd8d12",
    size=856_461_210,
    sha256="84c3a17a228c567a155259b2245b0b59072bf7da510260a0a02ec54de6d50b05",
    also=("text_encoders", "pulid"),
)

FACECLIP_FOLDER = f"{HUB}/ByteDance/FaceCLIP/resolve/main/model"


def _faceclip(file: str, needed_for: str, listed: str) -> WeightFile:
    path = f"model/{file}"
    return _hub(path, "flexid", "ByteDance/FaceCLIP", FACECLIP_TERMS, needed_for, listed=listed)


FACE_T5 = _faceclip("face_t5_encoder.pt", "Load SIP Projector: SIP on Flux.1", "12.5 GB")
FACE_CLIP = _faceclip("face_clip_encoder.pt", "Load SIP Projector: SIP on SDXL, SD 1.5", "3.15 GB")

_TEXT = ("text_encoders", "comfyanonymous/flux_text_encoders", APACHE, "DualCLIPLoader")
FLUX_BASE = (
    _hub(
        "flux1-dev.safetensors",
        "diffusion_models",
        "Comfy-Org/flux1-dev",
        FLUX_DEV,
        "Load Diffusion Model",
        listed="23.8 GB",
    ),
    _hub("clip_l.safetensors", *_TEXT, listed="246 MB"),
    _hub("t5xxl_fp8_e4m3fn.safetensors", *_TEXT, listed="4.89 GB"),
    _hub(
        "split_files/vae/ae.safetensors",
        "vae",
        "Comfy-Org/Lumina_Image_2.0_Repackaged",
        UNSTATED,
        "Load VAE",
        listed="335 MB",
    ),
)

IP_ADAPTER_PLUS_FACE = _hub(
    "models/ip-adapter-plus-face_sd15.safetensors",
    "ipadapter",
    "h94/IP-Adapter",
    "Apache-2.0",
    "Load FlexIP Adapter: a photo's face on SD 1.5",
    listed="98.2 MB",
)

CLIP_VIT_H = _hub(
    "models/image_encoder/model.safetensors",
    "clip_vision",
    "h94/IP-Adapter",
    APACHE,
    "Load CLIP Vision: what IP-Adapter sees of a photo",
    listed="2.53 GB",
    name="CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",
)
"""Under the name that IP-Adapter packs give it."""

PULID_SDXL_11 = _hub(
    "pulid_v1.1.safetensors",
    "pulid",
    "guozinan/PuLID",
    "Apache-2.0",
    "Load Identity Adapter: identity on SDXL",
    listed="984 MB",
)

DYNAMICID_SAA, DYNAMICID_IMR, DYNAMICID_KEYPOINTS = (
    _hub(file, "dynamicid", "meteorite2023/DynamicID", APACHE, needed_for)
    for file, needed_for in (
        ("SAA.bin", "Load DynamicID: several people on SD 1.5"),
        ("IMR.bin", "Load IMR: expression and pose of an identity on SD 1.5"),
        ("key_point_encoder.bin", "Load IMR: expression and pose of an identity on SD 1.5"),
    )
)
"""Not in the table: the repository is known, its file names only from the authors' code."""

WEIGHTS: tuple[WeightFile, ...] = (
    PULID_FLUX_091,
    PULID_FLUX_090,
    EVA02_CLIP_L_336,
    *ANTELOPEV2,
    *BUFFALO_L,
    PARSING_BISENET,
    FACE_T5,
    FACE_CLIP,
    *FLUX_BASE,
    PULID_SDXL_11,
    IP_ADAPTER_PLUS_FACE,
    CLIP_VIT_H,
)

SETS = {
    "vfa": FileSet(
        "identity on Flux.1: adapter, EVA tower, face pack, parser",
        (PULID_FLUX_091, EVA02_CLIP_L_336, *ANTELOPEV2, PARSING_BISENET),
    ),
    "sip-flux": FileSet("SIP on Flux.1: FaceT5", (FACE_T5,)),
    "sip-sdxl": FileSet("SIP on SDXL and SD 1.5: FaceCLIP", (FACE_CLIP,)),
    "vfa-sdxl": FileSet(
        "identity on SDXL: adapter, EVA tower, face pack, parser",
        (PULID_SDXL_11, EVA02_CLIP_L_336, *ANTELOPEV2, PARSING_BISENET),
    ),
    "ip-adapter": FileSet(
        "a photo's face on SD 1.5: IP-Adapter and CLIP ViT-H", (IP_ADAPTER_PLUS_FACE, CLIP_VIT_H)
    ),
    "flux": FileSet("Flux.1 dev itself: model, text encoders, autoencoder", FLUX_BASE),
}
"""What can be fetched by one word; a file's own name works as well."""


def where_to_get(files: Sequence[WeightFile]) -> str:
    """Say for each address which files to put into which folder, and on what terms.

    Raises ValueError when `files` is empty: there is then nothing to say.
    """
    if not files:
        raise ValueError("where_to_get needs at least one file; pass rows of public_files.WEIGHTS")
    groups: dict[tuple[str, str, str], list[WeightFile]] = {}
    for row in files:
        groups.setdefault((row.repo, row.folder, row.licence), []).append(row)
    fetched = all(row in WEIGHTS and not row.is_archived for row in files)
    by_node = ["The Fetch Models node does it, too."] if fetched else []
    return " ".join([*(_describe_group(rows) for rows in groups.values()), *by_node])


def _describe_group(rows: Sequence[WeightFile]) -> str:
    first = rows[0]
    names = ", ".join(f"{row.file} ({row.size})" if row.bytes else row.file for row in rows)
    addresses = list(dict.fromkeys(row.url for row in rows))
    if len(addresses) == 1:
        source = addresses[0]
        if first.is_archived:
            source += " (unpack it)"
        elif first.is_renamed:
            source += " (rename it)"
    else:
        source = first.page
    return f"Put {names} into models/{first.folder}, from {source}. Licence: {first.licence}."
