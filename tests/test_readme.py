"""The pages that people read first: their links lead somewhere, both languages say the same."""

import json
import re

import pytest
from pack import ROOT
from templates import TITLES

pytestmark = pytest.mark.pure

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
PAGES = [ENGLISH, CHINESE, ROOT / "mini/README.md", ROOT / "mini/weights/README.md"]
LINK = re.compile(r'(?:\]\(|src=")([^)"\s]+)')
INTERNAL_NODES = {"FlexIDLoadMiniTextEncoder"}
"""Nodes for the demo's models only; the demo templates bring them."""


def read(path):
    return path.read_text(encoding="utf-8")


def anchors(path):
    """The addresses of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", read(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_repository_leads_somewhere(page):
    for address in LINK.findall(read(page)):
        if address.startswith("https://"):
            continue
        name, _, anchor = address.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), address
        if anchor:
            assert anchor in anchors(target), address


@pytest.mark.parametrize(("page", "language"), [(ENGLISH, "en"), (CHINESE, "zh")])
def test_every_node_is_listed_by_its_name(page, language):
    names = json.loads(read(ROOT / "locales" / language / "nodeDefs.json"))
    text = read(page)
    for node, texts in names.items():
        if node not in INTERNAL_NODES:
            assert texts["display_name"] in text, node


def test_the_translation_has_the_same_parts_files_and_figures():
    """Headings, table rows, code, links to files, and numbers with a decimal point."""
    patterns = {
        "headings": r"^(#+) ",
        "table rows": r"^\|(?=.*\|$)",
        "code": r"`[^`\n]+`",
        "links": r"\]\(((?!README|#)[^)]+)\)",
        "figures": r"\d+\.\d+",
    }
    english, chinese = read(ENGLISH), read(CHINESE)
    for what, pattern in patterns.items():
        one, other = (
            sorted(re.findall(pattern, text, re.MULTILINE)) for text in (english, chinese)
        )
        assert one == other, (what, set(one) ^ set(other))


def test_the_pages_show_every_template_by_its_title():
    for page in (ENGLISH, CHINESE):
        text = read(page)
        for title in TITLES.values():
            if "(demo" not in title:
                assert title in text, title
