"""The pack's own socket types. Each is an `io.Custom` handle; values are in model_patches."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

FaceAnalyser = io.Custom("FLEXID_FACE_ANALYSER")
Faces = io.Custom("FLEXID_FACES")
FaceChoice = io.Custom("FLEXID_FACE_CHOICE")
VisionEncoder = io.Custom("FLEXID_VISION_ENCODER")
FlexIPAdapter = io.Custom("FLEXID_FLEXIP_ADAPTER")
DynamicIDAdapter = io.Custom("FLEXID_DYNAMICID_ADAPTER")
MotionEditor = io.Custom("FLEXID_MOTION_EDITOR")
IdentityAdapter = io.Custom("FLEXID_IDENTITY_ADAPTER")
Identity = io.Custom("FLEXID_IDENTITY")
Person = io.Custom("FLEXID_PERSON")
SipProjector = io.Custom("FLEXID_SIP_PROJECTOR")
Gate = io.Custom("FLEXID_GATE")
Elements = io.Custom("ARRAY")
"""The output `elements` of core's Create Bounding Boxes."""
FeatureMix = io.Custom("FLEXID_FEATURE_MIX")
QueryControl = io.Custom("FLEXID_QUERY_CONTROL")
MergeTrial = io.Custom("FLEXID_MERGE_TRIAL")


class Number(io.Float.Input):
    """A number with decimals. NaN is below its least value, if it has one.

    ComfyUI refuses what is less than the least value or more than the greatest. No comparison with
    NaN is true, so it would pass.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.min is not None:
            self.min = _Least(self.min)


class _Least(float):
    """Python asks it first what `value < least` is, because its class is the more special one."""

    def __gt__(self, value: float) -> bool:
        return not value >= float(self)
