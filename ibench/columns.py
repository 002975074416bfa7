"""The columns of the table: what is measured, what papers call it, which direction is better."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One measure."""

    key: str
    """Of Measured.values, or of Result.sets."""
    title: str
    better: str
    """higher, lower, or "" where it depends on what is asked for."""
    theirs: str = ""
    """Its name in IBench's tables."""
    unit: str = ""
    strict: bool = False
    """Whether a picture without a value counts 0."""
    of_set: bool = False
    """Whether all pictures of a row make it together."""
    ranked: bool = False
    """Whether rows are ranked by it for the mean rank; one column for each thing measured."""


MEAN_RANK = "mean_rank"
COLUMNS = (
    Column("likeness", "Likeness", "higher", "FaceSim", strict=True, ranked=True),
    Column("plain_likeness", "Likeness, plain", "", "AntiFaceSim"),
    Column("prompt", "Prompt (CLIP)", "higher", "ClipT", ranked=True),
    Column("prompt_sentences", "Prompt, by sentence", "higher"),
    Column("clip_plain", "As plain (CLIP)", "higher", "ClipI"),
    Column("pose", "Head turned", "", unit="°"),
    Column("yaw", "Yaw", "", "PoseDiv yaw", unit="°"),
    Column("pitch", "Pitch", "", "PoseDiv pitch", unit="°"),
    Column("roll", "Roll", "", "PoseDiv roll", unit="°"),
    Column("landmarks", "Landmarks moved", "", "LandmarkDiff"),
    Column("shape", "Shape changed", ""),
    Column("expression", "Expression changed", ""),
    Column("expression_class", "Another expression", "", "ExprDiv"),
    Column("seeds_pose", "Head turned between seeds", "", unit="°"),
    Column("seeds_landmarks", "Landmarks between seeds", ""),
    Column("seeds_shape", "Shape between seeds", ""),
    Column("seeds_expression", "Expression between seeds", ""),
    Column("seeds_expression_class", "Another expression between seeds", ""),
    Column("expression_asked", "Expression asked for", "higher", "Expr", strict=True, ranked=True),
    Column("expression_asked_bs", "Expression asked for, by shapes", "higher", strict=True),
    Column("view_asked", "View asked for", "higher", "Pose", strict=True, ranked=True),
    Column("pose_error", "Pose missed", "lower", unit="°"),
    Column("outside", "Changed outside", "lower", ranked=True),
    Column("clip_photo", "As the photo (CLIP)", ""),
    Column("dino", "As the photo (DINOv2)", "", "Dino"),
    Column("fgis", "Face as in the photo (DINOv2)", "higher", "Fgis", strict=True, ranked=True),
    Column("clip_subject", "Subject as in the photo (CLIP)", "", "CLIP-I"),
    Column("dino_subject", "Subject as in the photo (DINOv2)", "", "DINO-I"),
    Column("quality", "Quality (CLIP-IQA)", "higher", "CLIP-IQA", ranked=True),
    Column("aesthetic", "Aesthetic, 1 to 10", "higher", ranked=True),
    Column("aesthetic_tenth", "Aesthetic / 10", "higher", "Aesthetic"),
    Column("copy_paste", "Copy-paste", "lower", ranked=True),
    Column("fid", "FID", "lower", "FID", of_set=True),
    Column("kid", "KID × 1000", "lower", of_set=True, ranked=True),
    Column(MEAN_RANK, "Mean rank", "lower", "mRank", of_set=True),
)
"""In the order of the table. Those without a better direction show how far a picture moves from the
photo: more is freer where the prompt asks for it, and worse where it does not."""
