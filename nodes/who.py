"""After the run: which person is where in the pictures, and how alike."""

from comfy_api.latest import io

from ..model_patches.identity.who import Wanted, look_who
from ..model_patches.inject.saa_people import MOST_PEOPLE
from ..model_patches.inject.saa_places import give_boxes
from . import types
from .dynamicid import ALIASES
from .identity import preview_both
from .saa import people_input
from .validation import refuse_more


class FlexIDWhoIsWhere(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDWhoIsWhere",
            display_name="Who Is Where",
            category="FlexID/face",
            description="Looks at finished pictures with the recogniser: which of your people is "
            "where, how alike, and who is missing, in another's place or drawn twice.",
            search_aliases=[*ALIASES, "likeness", "face similarity", "check", "compare faces"],
            is_output_node=True,
            inputs=[
                types.FaceAnalyser.Input(
                    "analyser",
                    tooltip="From Load Face Analyser, with the pack that made the identities.",
                ),
                io.Image.Input("image", tooltip="The finished pictures; each is looked at."),
                people_input(
                    "The same people as in Apply SAA, 1 to 8; their masks say where they should be."
                ),
                types.Elements.Input(
                    "elements",
                    optional=True,
                    tooltip="The same elements of Create Bounding Boxes as in Apply SAA. Not "
                    "connected: masks alone say where people should be.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "overlay", tooltip="Regions thin, faces thick, with names and likeness."
                ),
                io.String.Output("report"),
                io.String.Output(
                    "table", tooltip="The same as CSV, one line for each picture and person."
                ),
                io.Boolean.Output(
                    "all_well", tooltip="True when everybody is found, and where they should be."
                ),
            ],
        )

    @classmethod
    def execute(cls, analyser, image, people: dict, elements=None, **more) -> io.NodeOutput:
        refuse_more("Who Is Where", f"{MOST_PEOPLE} people", more)
        everybody = list(people.values())
        if elements is not None:
            everybody = give_boxes(everybody, elements)
        wanted = [
            Wanted(one.name, one.identity, None if one.region is None else one.region.mask)
            for one in everybody
        ]
        done = look_who(analyser, image, wanted)
        return io.NodeOutput(
            done.overlay,
            done.report,
            done.table,
            done.all_well,
            ui=preview_both(cls, done.overlay, done.report),
        )


NODES = [FlexIDWhoIsWhere]
