"""Page-format graphs made with other packs' nodes: theirs in place, size and order of values."""

EMPTY = {"groups": [], "version": 0.4, "config": {}, "extra": {}}
APPLY = [("model", "MODEL", 1), ("pulid_flux", "PULIDFLUX", 2), ("eva_clip", "EVA_CLIP", 3)]
APPLY += [("face_analysis", "FACEANALYSIS", 4), ("image", "IMAGE", 5)]


def _node(number, kind, place, inputs, outputs, values):
    *pos, width, height = place
    return {
        "id": number,
        "type": kind,
        "pos": pos,
        "size": [width, height],
        "flags": {},
        "order": number,
        "mode": 0,
        "properties": {"Node name for S&R": kind},
        "inputs": [{"name": n, "type": t, "link": link} for n, t, link in inputs],
        "outputs": [{"name": t, "type": t, "links": links} for t, links in outputs],
        "widgets_values": values,
    }


def _graph(rows, links):
    counts = {"last_node_id": max(row[0] for row in rows), "last_link_id": len(links)}
    links = [[number, *link] for number, link in enumerate(links, 1)]
    return {**EMPTY, **counts, "nodes": [_node(*row) for row in rows], "links": links}


def _rows(prefix, model, apply, size, values):
    """Loaders one below the other, as close as the old nodes' sizes allow; what applies last."""
    return [
        (1, "UNETLoader", (0, 0, 315, 82), [], [("MODEL", [1])], [model, "default"]),
        (
            *(2, f"{prefix}PulidFluxModelLoader", (0, 120, 315, 58), []),
            *([("PULIDFLUX", [2])], ["pulid_flux_v0.9.1.safetensors"]),
        ),
        (
            *(3, f"{prefix}PulidFluxEvaClipLoader", (0, 220, 218, 26), []),
            *([("EVA_CLIP", [3])], []),
        ),
        (
            *(4, f"{prefix}PulidFluxInsightFaceLoader", (0, 290, 244, 58), []),
            *([("FACEANALYSIS", [4])], ["CUDA"]),
        ),
        (
            *(5, "LoadImage", (0, 390, 315, 314), []),
            *([("IMAGE", [5]), ("MASK", [6])], ["portrait.png", "image"]),
        ),
        (6, f"{prefix}ApplyPulidFlux", (360, 0, *size), apply, [("MODEL", [])], values),
    ]


def _links(kinds):
    """From the nodes 1 to 5 to the first inputs of node 6."""
    return [[number, 0, 6, number - 1, kind] for number, kind in enumerate(kinds, 1)]


KINDS = [kind for _, kind, _ in APPLY]


def masked_graph(model="flux1-dev.safetensors"):
    """lldacing's pack: a mask, and another face than the largest; a node below the last one."""
    apply = [*APPLY, ("attn_mask", "MASK", 6), ("options", "OPTIONS", 7)]
    rows = _rows("", model, apply, (315, 226), [0.9, 0.1, 0.8])
    rows.append((7, "PulidFluxOptions", (360, 260, 315, 106), [], [("OPTIONS", [7])], []))
    rows[-1] = (*rows[-1][:5], ["left-right", 1, 1])
    return _graph(rows, [*_links(KINDS), [5, 1, 6, 5, "MASK"], [7, 0, 6, 6, "OPTIONS"]])


def fused_graph(model="flux1-dev.safetensors"):
    """The packs with fusions, here with two settings that ours lacks."""
    apply = [*APPLY, ("attn_mask", "MASK", None), ("prior_image", "IMAGE", None)]
    values = [0.9, 0.1, 0.8, "concat", 1, 0, 1000, False]
    return _graph(_rows("", model, apply, (315, 346), values), _links(KINDS))


def twin_graph():
    """GraftingRayman's twins of those nodes, with more widgets between theirs."""
    apply = [*APPLY, ("attn_mask", "MASK", None), ("prior_image", "IMAGE", None)]
    values = [0.9, 0.1, 0.8, False, 0, 0.01, "largest_face", "mean", 1, 0, 1000, True]
    rows = _rows("GR", "flux1-dev.safetensors", apply, (300, 450), values)
    return _graph(rows, _links(KINDS))


def sdxl_graph():
    """PuLID for SDXL by cubiq's pack: the method stands before the weight."""
    apply = [("pulid", "PULID", 2) if one[0] == "pulid_flux" else one for one in APPLY]
    apply.append(("attn_mask", "MASK", 6))
    rows = _rows("", "sd_xl_base_1.0.safetensors", apply, (315, 254), ["style", 0.9, 0.1, 0.8])
    rows[0] = (
        *(1, "CheckpointLoaderSimple", (0, -40, 315, 98), []),
        *([("MODEL", [1]), ("CLIP", []), ("VAE", [])], ["sd_xl_base_1.0.safetensors"]),
    )
    names = {"PulidFluxModelLoader": "PulidModelLoader", "ApplyPulidFlux": "ApplyPulid"}
    names |= {f"PulidFlux{one}Loader": f"Pulid{one}Loader" for one in ("EvaClip", "InsightFace")}
    rows = [(row[0], names.get(row[1], row[1]), *row[2:]) for row in rows]
    rows[1] = (*rows[1][:4], [("PULID", [2])], ["pulid_v1.1.safetensors"])
    kinds = ["PULID" if kind == "PULIDFLUX" else kind for kind in KINDS]
    return _graph(rows, [*_links(kinds), [5, 1, 6, 5, "MASK"]])
