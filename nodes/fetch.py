"""Fetch the public model files, when the user queues the node and has accepted their terms."""

from __future__ import annotations

import logging

import folder_paths
from comfy_api.latest import io, ui

from ..model_patches.files.fetch import choose, describe_state, fetch
from ..model_patches.files.public_files import SETS, WEIGHTS
from .progress import show_progress

LOOK = "only look"


def _list_sets() -> str:
    return " ".join(f"{name}: {chosen.about}." for name, chosen in SETS.items())


class FlexIDFetchModels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDFetchModels",
            display_name="Fetch Models",
            category="FlexID/loaders",
            description="Fetches public model files from their own repositories into your models "
            "folders, checks their hashes, and says what is there. It does so only when you queue "
            "it, and never replaces a file. You can cancel at any time: the next run resumes.",
            search_aliases=["download", "models", "weights", "hugging face", "install", "missing"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "files",
                    options=[LOOK, *SETS, *(row.file for row in WEIGHTS)],
                    default=LOOK,
                    tooltip=f"What to fetch. {LOOK}: nothing, list what is there and what is "
                    f"missing. {_list_sets()} Or one file by its name.",
                ),
                io.Boolean.Input(
                    "accept_licences",
                    default=False,
                    tooltip="Turn on after reading the terms of files that do not allow any use "
                    "(non-commercial ones, and those that state none). Off: such files are not "
                    "fetched; the error shows their terms.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "report", tooltip="One line for each file: fetched, there, missing or damaged."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, files: str, accept_licences: bool) -> str:
        """What is there decides whether a second run has anything to do."""
        return describe_state(WEIGHTS, folder_paths.get_folder_paths)

    @classmethod
    def execute(cls, files: str, accept_licences: bool) -> io.NodeOutput:
        if files == LOOK:
            report = describe_state(WEIGHTS, folder_paths.get_folder_paths)
        else:
            report = fetch(
                choose([files]),
                folder_paths.get_folder_paths,
                accept_licences,
                logging.info,
                show_progress(),
            )
            report += "\nPress R, so that the lists show new files." * ("fetched (" in report)
        return io.NodeOutput(report, ui=ui.PreviewText(report))


NODES = [FlexIDFetchModels]
