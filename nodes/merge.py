"""Merge Identity Adapters: several PuLID files for Flux become a new one."""

import folder_paths
from comfy_api.latest import io, ui

from ..model_patches.adapters.merge import merge_loaded
from ..model_patches.adapters.merge_plan import TYPES, Settings
from ..model_patches.adapters.merge_rules import METHODS, Method
from ..model_patches.adapters.merge_scope import ENCODERS, PATHS, EncoderRule, Scope
from ..model_patches.adapters.pulid import load_identity_adapter
from ..model_patches.gates.numbers import parse_weights
from . import types
from .editid import ALIASES
from .identity import list_choices
from .progress import show_progress
from .validation import refuse_more, validate

MOST = 8


def _scope_inputs() -> list[io.Input]:
    return [
        io.String.Input(
            "layers",
            default="all",
            tooltip="Which cross-attention layers are merged: all, or numbers and ranges such as "
            "0-9, 12. A published file has 0 to 19. The others are copied from base, or from the "
            "first adapter.",
            advanced=True,
        ),
        io.String.Input(
            "paths",
            default="all",
            tooltip=f"Which parts of those layers: all, or some of {', '.join(PATHS)}. q: queries "
            "of the picture; k and v: keys and values of the person; out: output projection.",
            advanced=True,
        ),
        io.Combo.Input(
            "encoder",
            options=list(ENCODERS),
            default="equal",
            tooltip=f"What becomes of the encoder. {list_choices(ENCODERS)}",
            advanced=True,
        ),
        io.Boolean.Input(
            "normalise",
            default=True,
            tooltip="For lerp only. On: weights are divided by their sum. Off: taken as they are; "
            "another sum than 1 scales the layers.",
            advanced=True,
        ),
        io.Combo.Input(
            "dtype",
            options=list(TYPES),
            default="auto",
            tooltip="Number type of the layers. auto: that of the files; float32 where they "
            "differ. An encoder that is copied keeps its own, so that identities still fit.",
            advanced=True,
        ),
    ]


class FlexIDMergeAdapters(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        adapters = io.Autogrow.TemplatePrefix(
            types.IdentityAdapter.Input("adapter", tooltip="From Load Identity Adapter, for Flux."),
            prefix="adapter",
            min=1,
            max=MOST,
        )
        return io.Schema(
            node_id="FlexIDMergeAdapters",
            display_name="Merge Identity Adapters",
            category="FlexID/loaders",
            description="Makes a new PuLID file for Flux of several, as EditIDv2 does with its "
            "training runs, and writes it into models/pulid. Says how far each part has moved.",
            search_aliases=[*ALIASES, "merge", "fusion", "blend", "lerp", "slerp", "task vector"],
            is_output_node=True,
            inputs=[
                io.Autogrow.Input(
                    "adapters",
                    template=adapters,
                    tooltip="Two or more, which were trained from one another; a free slot appears "
                    "as you connect. task_arithmetic: one is enough, with base.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="lerp",
                    tooltip=f"How the files are merged. {list_choices(METHODS)}",
                ),
                io.String.Input(
                    "weights",
                    default="",
                    tooltip="One number for each adapter, by commas, for example 0.7, 0.3. Empty: "
                    "all the same. 0 leaves that one out. compat_add and compat_multiply: 1, a.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="Name of the new file in models/pulid, without ending. Empty: made of "
                    "the method and the files' names. The same merge under that name is opened "
                    "again; another file is never replaced.",
                ),
                *_scope_inputs(),
                types.IdentityAdapter.Input(
                    "base",
                    optional=True,
                    tooltip="The file that the others were trained from. task_arithmetic needs it; "
                    "otherwise it is what changes are measured from. Not connected: the first.",
                ),
            ],
            outputs=[types.IdentityAdapter.Output("merged"), io.String.Output("report")],
        )

    @classmethod
    def validate_inputs(
        cls,
        weights: str | None = None,
        layers: str | None = None,
        paths: str | None = None,
        adapters=None,
    ) -> bool | str:
        """`adapters` is here because ComfyUI passes the growing sockets in any case."""

        def check(weights: str, layers: str, paths: str) -> None:
            parse_weights(weights)
            Scope(layers=layers, paths=paths)

        return validate(check, weights, layers, paths)

    @classmethod
    def execute(
        cls,
        adapters: dict,
        method: Method,
        weights: str,
        name: str,
        layers: str,
        paths: str,
        encoder: EncoderRule,
        normalise: bool,
        dtype: str,
        base=None,
        **more,
    ) -> io.NodeOutput:
        refuse_more("Merge Identity Adapters", f"{MOST} adapters", more)
        shares = parse_weights(weights)
        scope = Scope(encoder, layers, paths)
        given = None if shares is None else tuple(shares)
        settings = Settings(method, given, normalise, scope, dtype)
        folder = folder_paths.get_folder_paths("pulid")[0]
        watch = show_progress()
        done = merge_loaded(list(adapters.values()), settings, folder, name, base, watch)
        merged = load_identity_adapter(done.path)
        return io.NodeOutput(merged, done.report, ui=ui.PreviewText(done.report))


NODES = [FlexIDMergeAdapters]
