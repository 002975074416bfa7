"""The demo's contact sheet: one graph paints every picture, our own code lays them out."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from .client import Client, Graph
from .console import SetupError
from .environment import Environment
from .machine import clean_environ
from .pins import ROOT
from .world import MINI, NOTE, PHOTO_NOTE, TRAINED_NOTE, is_trained

STUDY = MINI / "study"
TOOL = ROOT / "mini" / "evaluate.py"
PROMPTS = ("laughing", "right", "pencil")
"""An expression, a pose, a style; ids of mini/study/prompts.json."""
COLUMNS = ("prompt alone", "rigid VFA", "VFA + CAG", "SIP + VFA + CAG")
SEED = 7
OWN, BUNDLED = "auto", "bundled"
"""Face detectors of the demo: the small world's own knows its drawings and takes coffee cups of
photographs for faces; the bundled one was trained on photographs."""
TITLE = "Keep the face, obey the prompt"

Defaults = Callable[[str], dict[str, Any]]
"""Node class -> its widgets' default values."""
Link = list


def settings() -> dict[str, Any]:
    """How the small world is sampled."""
    return json.loads((STUDY / "settings.json").read_text(encoding="utf-8"))


def prompts() -> list[dict[str, Any]]:
    """The sheet's prompts with what they ask for."""
    entries = json.loads((STUDY / "prompts.json").read_text(encoding="utf-8"))
    return [next(entry for entry in entries if entry["id"] == name) for name in PROMPTS]


def defaults_from(client: Client) -> Defaults:
    """Ask the server for defaults, so that the graph sets only the values that matter here."""

    @cache
    def defaults(kind: str) -> dict[str, Any]:
        required = client.object_info(kind)[kind]["input"].get("required", {})
        return {
            name: spec[1]["default"]
            for name, spec in required.items()
            if len(spec) > 1 and "default" in spec[1]
        }

    return defaults


class Builder:
    """Collects nodes in API format, numbered from 1."""

    def __init__(self, defaults: Defaults) -> None:
        self.graph: Graph = {}
        self._defaults = defaults

    def add(self, kind: str, title: str, **inputs: Any) -> str:
        """A node with these inputs and defaults for the others; its number."""
        number = str(len(self.graph) + 1)
        inputs = {**self._defaults(kind), **inputs}
        self.graph[number] = {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}
        return number


def sheet_graph(photo: str, detector: str, defaults: Defaults) -> Graph:
    """Every picture of the sheet: one SaveImage per prompt and column, named line-column."""
    build, made = Builder(defaults), settings()
    models = _models(build, photo, detector)
    rigid = build.add(
        "FlexIDApplyVFA", "Rigid anchor", model=models["model"], adapter=models["adapter"],
        identity=models["identity"], weight=1.0,
    )  # fmt: skip
    size = build.add(
        "EmptySD3LatentImage", "Size", width=made["side"], height=made["side"], batch_size=1
    )
    nothing = build.add("CLIPTextEncode", "Negative prompt", clip=models["clip"], text="")
    for line, prompt in enumerate(prompts()):
        sources = _streams(build, models, [rigid, 0], prompt["text"], made["guidance"])
        for column, (model, positive) in enumerate(sources):
            where = f"{prompt['id']}: {COLUMNS[column]}"
            sampled = build.add(
                "KSampler", where, model=model, positive=positive, negative=[nothing, 0],
                latent_image=[size, 0], seed=SEED + line, steps=made["steps"], cfg=made["cfg"],
                sampler_name=made["sampler"], scheduler=made["scheduler"], denoise=1.0,
            )  # fmt: skip
            decoded = build.add(
                "VAEDecode", f"Decode {where}", samples=[sampled, 0], vae=models["vae"]
            )
            build.add(
                "SaveImage", f"Save {where}", images=[decoded, 0],
                filename_prefix=f"sheet_{line}_{column}",
            )  # fmt: skip
    return build.graph


def _models(build: Builder, photo: str, detector: str) -> dict[str, Link]:
    """Everything that all pictures share, up to the identity."""
    name = "flexid_mini_{}.safetensors".format
    model = build.add("UNETLoader", "Load Diffusion Model", unet_name=name("flux"),
                      weight_dtype="default")  # fmt: skip
    clip = build.add("FlexIDLoadMiniTextEncoder", "Text encoder", t5=name("t5"),
                     clip_l=name("clip_l"))  # fmt: skip
    vae = build.add("VAELoader", "Load VAE", vae_name=name("vae"))
    image = build.add("LoadImage", "Photo", image=photo)
    analyser = build.add("FlexIDLoadFaceAnalyser", "Face analyser", pack="flexid_mini",
                         detector=detector)  # fmt: skip
    faces = build.add("FlexIDDetectFaces", "Detect Faces", analyser=[analyser, 0],
                      image=[image, 0])  # fmt: skip
    adapter = build.add("FlexIDLoadIdentityAdapter", "Adapter", file=name("pulid"))
    tower = build.add("FlexIDLoadEvaClip", "Vision tower", file=name("eva"))
    projector = build.add("FlexIDLoadSIPProjector", "SIP projector",
                          file="flexid_mini_face_t5.pt", form="difference")  # fmt: skip
    seen = build.add("FlexIDEncodeIdentity", "Identity for VFA", adapter=[adapter, 0],
                     vision_encoder=[tower, 0], faces=[faces, 0])  # fmt: skip
    both = build.add("FlexIDEncodeSIPIdentity", "Identity for both", projector=[projector, 0],
                     faces=[faces, 0], identity=[seen, 0])  # fmt: skip
    numbers = {"model": model, "clip": clip, "vae": vae, "adapter": adapter}
    numbers |= {"projector": projector, "identity": both}
    return {name: [number, 0] for name, number in numbers.items()}


def _streams(
    build: Builder, models: Mapping[str, Link], rigid: Link, text: str, guidance: float
) -> list[tuple[Link, Link]]:
    """MODEL and CONDITIONING of each column, for one prompt."""
    encoded = build.add("CLIPTextEncode", "Prompt", clip=models["clip"], text=text)
    plain = build.add("FluxGuidance", "Guidance", conditioning=[encoded, 0], guidance=guidance)
    gate = build.add("FlexIDContextAwareGate", "Gate", prompt=text)
    gated = build.add(
        "FlexIDApplyVFA", "Gated anchor", model=models["model"], adapter=models["adapter"],
        identity=models["identity"], gate=[gate, 1],
    )  # fmt: skip
    shared = {name: models[name] for name in ("model", "adapter", "projector", "identity", "clip")}
    whole = build.add("FlexIDApply", "Both streams", conditioning=[plain, 0], prompt=text, **shared)
    prompt = [plain, 0]
    return [(models["model"], prompt), (rigid, prompt), ([gated, 0], prompt),
            ([whole, 0], [whole, 1])]  # fmt: skip


def choose_detector(own_photo: bool) -> str:
    """OWN for the demo's drawn person, BUNDLED for every picture that somebody else made.

    What a picture is follows from where it comes from, not from its pixels: no detector can tell
    a photograph from a drawing, and the small world's own finds something in nearly everything.
    """
    return OWN if is_trained() and not own_photo else BUNDLED


def paint(
    client: Client, photo: str, detector: str, run: Callable[[Client, Graph], dict[str, Any]]
) -> tuple[Graph, dict[str, Any]]:
    """The graph and its history entry. Raises GraphError."""
    graph = sheet_graph(photo, detector, defaults_from(client))
    return graph, run(client, graph)


def note(own_photo: bool) -> str:
    """Say what these pictures show and what they do not."""
    if not is_trained():
        return NOTE
    return PHOTO_NOTE if own_photo else TRAINED_NOTE


def compose(
    environment: Environment,
    models: Path,
    found: Mapping[str, Any],
    pictures: Sequence[tuple[str, bytes]],
    output: Path,
    own_photo: bool,
) -> None:
    """Lay the pictures out as one labelled PNG at `output`; they are put beside it meanwhile.

    found: the face that was used, as setup/face.py returns it. Raises SetupError with the tool's
    last words.
    """
    folder = output.parent
    paths: list[list[str]] = [[""] * len(COLUMNS) for _ in PROMPTS]
    for name, data in pictures:
        line, column = (int(part) for part in name.split("_")[1:3])
        path = folder / name
        path.write_bytes(data)
        paths[line][column] = str(path)
    made = settings()
    manifest = {
        "models": str(models),
        "face": found["crop"],
        "output": str(output),
        "title": TITLE,
        "subtitle": "One photo of a person, three prompts. Each line starts from the same noise.",
        "columns": COLUMNS,
        "lines": [
            {"prompt": prompt["id"], "pictures": line}
            for prompt, line in zip(prompts(), paths, strict=True)
        ],
        "embedding": found["embedding"] if is_trained() and not own_photo else None,
        "foot": f"{note(own_photo)} {made['steps']} steps of {made['sampler']}, "
        f"CFG {made['cfg']:g}, {made['side']} x {made['side']} pixels, VFA weight 1, SIP 0.1.",
    }
    run_tool(environment, "sheet", manifest, folder, "the contact sheet could not be made")


def run_tool(
    environment: Environment, verb: str, manifest: dict[str, Any], folder: Path, failure: str
) -> None:
    """Let mini/evaluate.py do what `manifest` says, in the environment's Python.

    Raises SetupError that begins with `failure` and ends with the tool's last words.
    """
    file = folder / f"{verb}.json"
    file.write_text(json.dumps(manifest), encoding="utf-8")
    command = [str(environment.python), str(TOOL), verb, str(file)]
    result = subprocess.run(command, capture_output=True, text=True, env=clean_environ())
    if result.returncode:
        raise SetupError(f"{failure}:\n{result.stderr.strip()}")
