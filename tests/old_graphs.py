"""Page-format graphs made with other packs' nodes."""

EMPTY = {"groups": [], "version": 0.4, "config": {}, "extra": {}}


def _node(number, kind, inputs, outputs, values):
    return {
        "id": number,
        "type": kind,
        "pos": [number % 2 * 400, number * 200],
        "size": [300, 120],
        "flags": {},
        "order": number,
        "mode": 0,
        "properties": {"Node name for S&R": kind},
        "inputs": [{"name": n, "type": t, "link": link} for n, t, link in inputs],
        "outputs": [{"name": t, "type": t, "links": links} for t, links in outputs],
        "widgets_values": values,
    }


def pulid_graph():
    """As the page saved it with a PuLID-Flux pack: inputs, outputs and values of those nodes."""
    apply = [("model", "MODEL", 1), ("pulid_flux", "PULIDFLUX", 2), ("eva_clip", "EVA_CLIP", 3)]
    apply += [("face_analysis", "FACEANALYSIS", 4), ("image", "IMAGE", 5)]
    apply += [("attn_mask", "MASK", None)]
    rows = [
        (1, "UNETLoader", [], [("MODEL", [1])], ["flux1-dev.safetensors", "default"]),
        (2, "PulidFluxModelLoader", [], [("PULIDFLUX", [2])], ["pulid_flux_v0.9.1.safetensors"]),
        (3, "PulidFluxEvaClipLoader", [], [("EVA_CLIP", [3])], []),
        (4, "PulidFluxInsightFaceLoader", [], [("FACEANALYSIS", [4])], ["CPU"]),
        (5, "LoadImage", [], [("IMAGE", [5]), ("MASK", [])], ["portrait.png", "image"]),
        (6, "ApplyPulidFlux", apply, [("MODEL", [])], [0.9, 0.1, 0.8]),
    ]
    kinds = [kind for _, kind, link in apply if link]
    links = [[i, i, 0, 6, i - 1, kind] for i, kind in enumerate(kinds, 1)]
    counts = {"last_node_id": 6, "last_link_id": 5}
    return {**EMPTY, **counts, "nodes": [_node(*row) for row in rows], "links": links}
