"""Which face of a photo the demo takes: the nodes' detector, order and crop, without a server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ...model_patches.face.align import ffhq_crop
from ...model_patches.face.analyser import load_analyser
from ...model_patches.face.choose import FaceChoice, rank
from .. import world
from .judges import open_judges


def find(manifest: Path) -> None:
    """`manifest` is what setup/face.py writes. Writes the crop, and as JSON what was found."""
    wanted = json.loads(manifest.read_text(encoding="utf-8"))
    # No likeness is measured of what the small world did not draw: its pack is then not needed.
    own = wanted["detector"] != "bundled"
    pack = (Path(wanted["models"]) / world.RECOGNISER).parent if own else None
    analyser = load_analyser(pack, wanted["detector"], ["CPU"], None)
    with Image.open(wanted["photo"]) as photo:
        rgb = np.array(ImageOps.exif_transpose(photo).convert("RGB"))
    faces = analyser.detector.find(rgb)
    size = rgb.shape[1], rgb.shape[0]
    found = {"size": size, "count": len(faces)}
    if faces:
        face = faces[rank(faces, FaceChoice(), size)[0]]
        embedding = None
        if own:
            judge = next(iter(open_judges(analyser, Path(wanted["models"])).values()))
            embedding = judge.embed(rgb, face).tolist()
        Image.fromarray(ffhq_crop(rgb, face.points)).save(wanted["crop"])
        found |= {
            "number": 0,
            "score": face.score,
            "share": face.area / (size[0] * size[1]),
            "box": face.box,
            "embedding": embedding,
        }
    Path(wanted["found"]).write_text(json.dumps(found), encoding="utf-8")
