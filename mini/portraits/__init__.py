"""Portraits from parameters: who, how shown, drawn, and said in words."""

from .captions import caption
from .drawing import Face, Rendered, render, svg
from .persons import AGES, IDENTITY_SIZE, Person, person
from .shots import (
    CLOTHES,
    COLOURS,
    EXPRESSIONS,
    LIGHTS,
    SCENES,
    STYLES,
    Framing,
    Picture,
    Shot,
    picture,
    shot,
)

__all__ = [
    "AGES",
    "CLOTHES",
    "COLOURS",
    "EXPRESSIONS",
    "IDENTITY_SIZE",
    "LIGHTS",
    "SCENES",
    "STYLES",
    "Face",
    "Framing",
    "Person",
    "Picture",
    "Rendered",
    "Shot",
    "caption",
    "person",
    "picture",
    "render",
    "shot",
    "svg",
]
