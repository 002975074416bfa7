"""Which tokens of a prompt a residual may touch: all, the written ones, or the person's."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

Scope = Literal["auto", "all", "content", "subject"]
SCOPES: tuple[Scope, ...] = ("auto", "all", "content", "subject")

# The stream of the tokens that the model's text is made of, best first: the others (Flux's CLIP-L)
# only feed the pooled vector. SDXL's two streams share their tokens.
STREAMS = {"t5xxl": "t5xxl", "g": "clip_g", "l": "clip_l"}


def scope_mask(scope: Scope, length: int, clip: Any = None, text: str = "") -> Tensor:
    """(length,) bool. `clip` and `text` are those that made the conditioning; "all" needs neither.

    Raises ValueError when they are missing, do not fit the conditioning, or name no person.
    """
    if scope not in SCOPES:
        raise ValueError(f"Unknown scope {scope!r}; choose one of {', '.join(SCOPES)}.")
    if scope_used(scope, clip, text) == "all":
        return torch.ones(length, dtype=torch.bool)
    if clip is None or not text.strip():
        lacking = "clip" if clip is None else "text"
        raise ValueError(
            f"Apply SIP has scope {scope!r} but no {lacking}: which tokens are meant is read from "
            f"the prompt's own tokens. Connect {lacking} (the same as in the text encode node), or "
            "choose scope 'all'."
        )
    stream, tokens = _tokens(clip, text)
    if len(tokens) != length:
        raise ValueError(
            f"The conditioning has {length} tokens, the text makes {len(tokens)} with this CLIP. "
            "Connect the CLIP and the text that made the conditioning, before any concatenation, "
            "or choose scope 'all'."
        )
    if scope != "subject":
        return torch.tensor([word != 0 for _, _, word in tokens])
    return _subject(clip, stream, tokens, text)


def scope_used(scope: Scope, clip: Any, text: str) -> Scope:
    """Resolve "auto": content when it can be told from padding, otherwise all."""
    if scope != "auto":
        return scope
    return "content" if clip is not None and text.strip() else "all"


def _tokens(clip: Any, text: str) -> tuple[str, list[tuple]]:
    """The stream's name and its (token, weight, word number) through all chunks."""
    streams = clip.tokenize(text, return_word_ids=True)
    name = next((name for name in STREAMS if name in streams), None)
    if name is None:
        raise ValueError(
            f"This CLIP makes tokens for {', '.join(streams)}; Apply SIP reads "
            f"{', '.join(STREAMS)} (Flux, SDXL, SD 1.5). Choose scope 'all' for another model."
        )
    return name, [token for chunk in streams[name] for token in chunk]


def _subject(clip: Any, stream: str, tokens: list[tuple], text: str) -> Tensor:
    vocabulary = getattr(clip.tokenizer, STREAMS[stream]).inv_vocab
    people = person_words()
    mask = torch.zeros(len(tokens), dtype=torch.bool)
    for word, places in _words(tokens, vocabulary):
        stem = word[:-2] if word.endswith("'s") else word
        if stem in people or (stem.endswith("s") and stem[:-1] in people):
            mask[places] = True
    if not mask.any():
        raise ValueError(
            f"Scope 'subject' found 0 words for a person in {text[:80]!r}; it knows "
            f"{len(people)}, such as person, woman, man, she, he. Add one, or choose scope "
            "'content'."
        )
    return mask


def _words(tokens: list[tuple], vocabulary: dict[int, str]) -> list[tuple[str, list[int]]]:
    """Pieces put together again: T5 marks where a word begins, CLIP where it ends."""
    words: list[tuple[str, list[int]]] = []
    open_word = False
    for place, (token, _, number) in enumerate(tokens):
        if number == 0 or not isinstance(token, int):
            open_word = False
            continue
        piece = vocabulary[token]
        bare = re.sub(r"[^\w']", "", piece.replace("</w>", "").lower())
        if piece.startswith("▁") or not open_word or not bare:
            words.append(("", []))
        word, places = words[-1]
        words[-1] = (word + bare, [*places, place])
        open_word = bool(bare) and not piece.endswith("</w>") or piece == "▁"
    return words


@cache
def person_words() -> frozenset[str]:
    """English words for a person, from person_words.json."""
    path = Path(__file__).with_name("person_words.json")
    return frozenset(json.loads(path.read_text(encoding="utf-8"))["en"])
