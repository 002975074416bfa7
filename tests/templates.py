"""The template files of `workflows/`: short names, which the API twins have, and titles.

ComfyUI shows a pack's templates by their file names, so the file names are the titles.
"""

from pack import ROOT

FOLDER = ROOT / "workflows"
TITLES = {
    "vfa": "Keep a face (Flux.1)",
    "flexid": "Keep a face, obey the prompt (Flux.1)",
    "flexid_nodes": "Face and prompt, all nodes (Flux.1)",
    "editid": "Likeness or freedom, by one choice (Flux.1)",
    "guidance_kontext": "Weigh a reference photo (Flux.1 Kontext)",
    "guidance_flux2": "Weigh a reference photo (FLUX.2 klein)",
    "guidance_qwen": "Weigh a reference photo (Qwen-Image-Edit)",
    "demo": "Keep a face (demo)",
    "flexid_demo": "Keep a face, obey the prompt (demo)",
    "flexid_nodes_demo": "Face and prompt, all nodes (demo)",
}
PAGES = {name: FOLDER / f"{title}.json" for name, title in TITLES.items()}
"""Short name -> the graph in the page's format."""
APIS = {name: FOLDER / "api" / f"{name}.api.json" for name in TITLES}
"""Short name -> the same graph for the queue API."""
