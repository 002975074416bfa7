"""The template files of `workflows/`: short names, which the API twins have, and titles.

ComfyUI shows a pack's templates by their file names, so the file names are the titles.
"""

from pack import ROOT

FOLDER = ROOT / "workflows"
TITLES = {
    "vfa": "Keep a face (Flux.1)",
    "flexid": "Keep a face, obey the prompt (Flux.1)",
    "flexid_nodes": "Face and prompt, all nodes (Flux.1)",
    "flexid_sdxl": "Keep a face, obey the prompt (SDXL)",
    "balance": "One slider from prompt to photo (Flux.1)",
    "compare_identity": "Is it still the person (Flux.1)",
    "sweep": "Which weight (Flux.1)",
    "flexip": "A photo and a prompt, one slider (SD 1.5)",
    "subject_in_style": "The person of a photo in another style (SD 1.5)",
    "style_transfer": "The style of a photo, another subject (SD 1.5)",
    "editid": "Likeness or freedom, by one choice (Flux.1)",
    "id_guidance": "Guide a face by a recogniser (Flux.1)",
    "merge_adapters": "Merge two adapters (Flux.1)",
    "couple_flux": "Two people, two boxes (Flux.1)",
    "guidance_kontext": "Weigh a reference photo (Flux.1 Kontext)",
    "guidance_flux2": "Weigh a reference photo (FLUX.2 klein)",
    "guidance_qwen": "Weigh a reference photo (Qwen-Image-Edit)",
    "dynamicid": "Draw a person (DynamicID, SD 1.5)",
    "dynamicid_couple": "Two people, own expressions (DynamicID, SD 1.5)",
    "dynamicid_group": "Three people (DynamicID, SD 1.5)",
    "expression_sheet": "Expression sheet (DynamicID, SD 1.5)",
    "demo": "Keep a face (demo)",
    "flexid_demo": "Keep a face, obey the prompt (demo)",
    "flexid_nodes_demo": "Face and prompt, all nodes (demo)",
    "balance_demo": "One slider from prompt to photo (demo)",
    "flexip_demo": "A photo and a prompt, one slider (demo)",
    "flexip_beside_vfa_demo": "FlexIP beside VFA (demo)",
    "editid_demo": "Likeness or freedom, by one choice (demo)",
    "compare_identity_demo": "Is it still the person (demo)",
    "sweep_demo": "Which weight (demo)",
    "dynamicid_demo": "One person, many expressions (demo)",
    "couple_demo": "Two people, own expressions (demo)",
}
PAGES = {name: FOLDER / f"{title}.json" for name, title in TITLES.items()}
"""Short name -> the graph in the page's format."""
APIS = {name: FOLDER / "api" / f"{name}.api.json" for name in TITLES}
"""Short name -> the same graph for the queue API."""
