"""The public weight files: where each comes from, where it goes, how to recognise it.

Sizes and digests are those that several independent public projects pin for the same address;
they are None where no such record was found. This module downloads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HUB = "https://huggingface.co"
RESEARCH_ONLY = "non-commercial research only (insightface model terms)"


@dataclass(frozen=True)
class WeightFile:
    """One public file."""

    file: str
    folder: str
    """Folder below ComfyUI's models folder, with forward slashes."""
    repo: str
    """Hugging Face repository, or GitHub repository for release files."""
    licence: str
    revision: str | None = None
    """Commit of a Hugging Face repository, or release tag of a GitHub one; None: not pinned."""
    bytes: int | None = None
    """Size of the file, after unpacking where the address is an archive."""
    sha256: str | None = None
    """Hex digits of the file's SHA-256, after unpacking where the address is an archive."""
    url: str = ""
    """Direct address of the file, or of the archive that holds it."""


def _hub(
    file: str,
    folder: str,
    repo: str,
    licence: str,
    revision: str | None = None,
    size: int | None = None,
    sha256: str | None = None,
) -> WeightFile:
    url = f"{HUB}/{repo}/resolve/{revision or 'main'}/{file}"
    return WeightFile(file, folder, repo, licence, revision, size, sha256, url)


def _release(
    file: str,
    folder: str,
    repo: str,
    tag: str,
    licence: str,
    size: int,
    sha256: str,
    asset: str = "",
) -> WeightFile:
    url = f"https://github.com/{repo}/releases/download/{tag}/{asset or file}"
    return WeightFile(file, folder, repo, licence, tag, size, sha256, url)


def _antelope(file: str, size: int, sha256: str) -> WeightFile:
    return _hub(
        file,
        "insightface/models/antelopev2",
        "DIAMONIK7777/antelopev2",
        RESEARCH_ONLY,
        revision="ba0c3e10f4548361eb9a63265d87ce1140ab5a05",
        size=size,
        sha256=sha256,
    )


def _buffalo(file: str, size: int, sha256: str) -> WeightFile:
    return _release(
        file,
        "insightface/models/buffalo_l",
        "deepinsight/insightface",
        "v0.7",
        RESEARCH_ONLY,
        asset="buffalo_l.zip",
        size=size,
        sha256=sha256,
    )


_SCRFD_10G = "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91"

ANTELOPEV2 = (
    _antelope("scrfd_10g_bnkps.onnx", 16_923_827, _SCRFD_10G),
    _antelope(
        "glintr100.onnx",
        260_665_334,
        "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf",
    ),
    _antelope(
        "1k3d68.onnx",
        143_607_619,
        "df5c06b8a0c12e422b2ed8947b8869faa4105387f199c477af038aa01f9a45cc",
    ),
    _antelope(
        "2d106det.onnx",
        5_030_888,
        "f001b856447c413801ef5c42091ed0cd516fcd21f2d6b79635b1e733a7109dbf",
    ),
    _antelope(
        "genderage.onnx",
        1_322_532,
        "4fde69b1c810857b88c64a335084f1c3fe8f01246c9a191b48c7bb756d6652fb",
    ),
)

BUFFALO_L = (
    _buffalo("det_10g.onnx", 16_923_827, _SCRFD_10G),
    _buffalo(
        "w600k_r50.onnx",
        174_383_860,
        "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
    ),
)

PARSING_BISENET = _release(
    "parsing_bisenet.pth",
    "facexlib",
    "xinntao/facexlib",
    "v0.2.0",
    "Apache-2.0 (facexlib; the weights state no terms of their own)",
    size=53_289_463,
    sha256="468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
)

PULID_FLUX_091 = _hub(
    "pulid_flux_v0.9.1.safetensors",
    "pulid",
    "guozinan/PuLID",
    "Apache-2.0",
    revision="492b1451255dc9d9bc3c857259690b5f8b998d4a",
    size=1_142_099_520,
    sha256="92c41c3af322b02e58e1b32842e4601e08c8f16ec1fe80089dbe957df510f51d",
)

PULID_FLUX_090 = _hub("pulid_flux_v0.9.0.safetensors", "pulid", "guozinan/PuLID", "Apache-2.0")

EVA02_CLIP_L_336 = _hub(
    "EVA02_CLIP_L_336_psz14_s6B.pt",
    "clip_vision",
    "QuanSun/EVA-CLIP",
    "MIT",
    revision="11afd202f2ae80869d6cef18b1ec775e79bd8d12",
    size=856_461_210,
    sha256="84c3a17a228c567a155259b2245b0b59072bf7da510260a0a02ec54de6d50b05",
)

FACECLIP_FOLDER = f"{HUB}/ByteDance/FaceCLIP/resolve/main/model"


def _faceclip(file: str) -> WeightFile:
    url = f"{FACECLIP_FOLDER}/{file}"
    return WeightFile(file, "flexid", "ByteDance/FaceCLIP", "CC BY-NC 4.0", url=url)


FACE_T5 = _faceclip("face_t5_encoder.pt")
FACE_CLIP = _faceclip("face_clip_encoder.pt")

IP_ADAPTER_PLUS_FACE = WeightFile(
    "ip-adapter-plus-face_sd15.safetensors",
    "ipadapter",
    "h94/IP-Adapter",
    "Apache-2.0",
    url=f"{HUB}/h94/IP-Adapter/resolve/main/models/ip-adapter-plus-face_sd15.safetensors",
)

WEIGHTS: tuple[WeightFile, ...] = (
    *ANTELOPEV2,
    *BUFFALO_L,
    PARSING_BISENET,
    PULID_FLUX_091,
    PULID_FLUX_090,
    EVA02_CLIP_L_336,
    FACE_T5,
    FACE_CLIP,
)


def where_to_get(files: Sequence[WeightFile]) -> str:
    """Say for each address which files to put into which folder, and on what terms.

    Raises ValueError when `files` is empty: there is then nothing to say.
    """
    if not files:
        raise ValueError("where_to_get needs at least one file; pass rows of public_files.WEIGHTS")
    groups: dict[tuple[str, str, str], list[WeightFile]] = {}
    for row in files:
        groups.setdefault((row.repo, row.folder, row.licence), []).append(row)
    return " ".join(_describe_group(rows) for rows in groups.values())


def _describe_group(rows: Sequence[WeightFile]) -> str:
    first = rows[0]
    names = ", ".join(f"{row.file}{_format_size(row)}" for row in rows)
    addresses = list(dict.fromkeys(row.url for row in rows))
    if len(addresses) == 1:
        source = addresses[0]
        if not source.endswith(first.file):
            source += " (unpack it)"
    else:
        source = f"{HUB}/{first.repo}"
    return f"Put {names} into models/{first.folder}, from {source}. Licence: {first.licence}."


def _format_size(row: WeightFile) -> str:
    return f" ({row.bytes / 1e6:.0f} MB)" if row.bytes else ""
