"""The face analyser: detector, recogniser and parser as one value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .boxes import Detector
from .cascade import load_cascade
from .landmarks import Landmarks
from .pack import (
    BROKEN,
    DETECTION,
    LANDMARKS,
    RECOGNITION,
    Pack,
    describe_broken,
    load_model,
    read_pack,
)
from .parsing import Parser, load_parser
from .providers import describe_fallback, resolve_providers
from .recogniser import Recogniser, make_recogniser
from .scrfd import make_scrfd

DETECTORS = ("auto", "pack", "bundled")


@dataclass(frozen=True, eq=False)
class FaceAnalyser:
    """Finds, recognises and parses faces. `description` says what is in use and what is absent."""

    detector: Detector
    recogniser: Recogniser | None
    parser: Parser | None
    description: str
    landmarks: Landmarks | None = None


def load_analyser(
    pack_folder: Path | None,
    detector: str,
    providers: Sequence[str],
    parser_path: Path | None,
) -> FaceAnalyser:
    """Load from files only; nothing is ever downloaded.

    pack_folder: an insightface pack such as models/insightface/models/antelopev2, flat or nested
    one level; None uses no pack. detector: "auto" takes the pack's detector and, when the pack
    has none, the bundled one; "pack" insists on the pack's; "bundled" takes the bundled one.
    providers: "auto", "CUDA", "ROCM", "CoreML", "CPU"; where onnxruntime lacks the named one,
    another runs the models and the description says so. parser_path: facexlib's
    parsing_bisenet.pth; None leaves the parsing labels out.

    Raises ValueError, FileNotFoundError or RuntimeError; each says what to do.
    """
    if detector not in DETECTORS:
        raise ValueError(f"unknown detector {detector!r}; choose one of {', '.join(DETECTORS)}")
    if pack_folder is None and detector == "pack":
        raise ValueError(
            'detector "pack" needs a face model pack, but none is chosen; choose antelopev2 or '
            'another pack, or set the detector to "bundled"'
        )
    pack = read_pack(Path(pack_folder)) if pack_folder is not None else None
    names = resolve_providers(providers) if pack else []
    finder, finder_on = _detector(pack, detector, names)
    recogniser, recogniser_on = _recogniser(pack, names)
    parser = load_parser(Path(parser_path)) if parser_path is not None else None
    points = pack.first(LANDMARKS) if pack else None
    landmarks = Landmarks(points, pack.name, tuple(names)) if pack and points else None
    lines = (
        f"Detector: {finder.name}{_describe_provider(finder_on)}",
        f"Recogniser: {recogniser.name}{_describe_provider(recogniser_on)}"
        if recogniser
        else _no_recogniser(pack),
        f"Landmarks: {landmarks.name}" if landmarks else "",
        f"Parsing: {parser.name}" if parser else NO_PARSING,
        describe_fallback(providers, [name for name in (finder_on, recogniser_on) if name]),
    )
    return FaceAnalyser(finder, recogniser, parser, "\n".join(filter(None, lines)), landmarks)


def _describe_provider(name: str) -> str:
    return f" on {name}" if name else ""


NO_PARSING = (
    "Parsing: none, so the background around a face is not whitened as PuLID was trained on; for "
    "the best likeness put parsing_bisenet.pth into models/facexlib"
)


def _no_recogniser(pack: Pack | None) -> str:
    where = f"the pack {pack.name} has none" if pack else "no face model pack is chosen"
    return f"Recogniser: none ({where}), so faces carry no ArcFace embedding"


def _detector(pack: Pack | None, wanted: str, providers: Sequence[str]) -> tuple[Detector, str]:
    """The detector, and the provider that it runs on; the bundled one has none."""
    path = pack.first(DETECTION) if pack and wanted != "bundled" else None
    if pack and path is not None:
        model, provider = load_model(path, providers)
        return make_scrfd(model, path, pack.name), provider
    if pack and wanted != "bundled":
        _refuse_broken(pack, "detector")
        if wanted == "pack":
            raise FileNotFoundError(
                f"no face detector among the models of {pack.folder}: {pack.contents()}; add "
                "scrfd_10g_bnkps.onnx, or set the detector to auto or bundled"
            )
    return load_cascade(), ""


def _recogniser(pack: Pack | None, providers: Sequence[str]) -> tuple[Recogniser | None, str]:
    path = pack.first(RECOGNITION) if pack else None
    if pack is None or path is None:
        if pack is not None:
            _refuse_broken(pack, "recogniser")
        return None, ""
    model, provider = load_model(path, providers)
    return make_recogniser(model, path, pack.name), provider


def _refuse_broken(pack: Pack, role: str) -> None:
    """A missing role may be the broken file: refuse, rather than go on with less."""
    path = pack.first(BROKEN)
    if path is not None:
        why = f"it cannot be parsed, and the pack has no other {role} ({pack.contents()})"
        raise RuntimeError(describe_broken(path, why))
