"""The whole benchmark on the small world: stopped, resumed, shared by processes."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from browser_page import Page, open_browser
from flexid.mini import world
from pack import ROOT
from PIL import Image

pytestmark = pytest.mark.server

SCRIPT = ROOT / "ibench" / "run.py"
ROWS = ("alone", "vfa-1", "own")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two people in IBench's format, named by paths of another machine, and a prompt."""
    folder = tmp_path_factory.mktemp("ibench")
    with Image.open(ROOT / "mini/study/reference.png") as photo:
        photo.save(folder / "李.png")
        photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "Zoë.png")
    people = [{"id": f"/authors/{name}.png", "gender": "female"} for name in ("李", "Zoë")]
    prompts = [{"prompt": "a portrait photo of a {person} in a park"}]
    for name, entries in (("small_images", people), ("small_template", prompts)):
        text = json.dumps({"datas": entries}, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "workflows/api/flexid_demo.api.json", folder / "own.api.json")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    world.build_world(folder)
    return folder


def command(data, models, out, *words):
    rows = ["alone", "vfa-1", f"own={data / 'own.api.json'}"]
    own = ["--data", data, "--models", models, "--out", out, "--rows", *rows, "--set", "steps=1"]
    return [sys.executable, str(SCRIPT), "--cpu", *map(str, own), *words]


def start(words):
    """With one thread each: another number of them rounds otherwise."""
    pipe, environ = subprocess.PIPE, {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, stdout=pipe, stderr=subprocess.PIPE, text=True, env=environ)


def pictures(out):
    return {path.name: path.stat().st_mtime_ns for path in (out / "pictures").glob("*.png")}


@pytest.fixture(scope="module")
def finished(data, models, tmp_path_factory):
    """The folder of both runs, and the pictures of the one that was stopped, before it went on."""
    folder = tmp_path_factory.mktemp("runs")
    stopped = start(command(data, models, folder / "one"))
    for line in stopped.stdout:
        if line.startswith("1 of 6 pictures"):
            stopped.send_signal(signal.SIGTERM)
            break
    _, errors = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, errors
    early = pictures(folder / "one")
    assert 1 <= len(early) < 6 and not (folder / "one" / "table.csv").exists()
    runs = [
        start(command(data, models, folder / "one")),
        start(command(data, models, folder / "two", "--workers", "2")),
    ]
    for run in runs:
        output, errors = run.communicate(timeout=240)
        assert run.returncode == 0, output + errors
    return folder, early


def test_a_stopped_run_goes_on_and_two_processes_give_the_same_table(finished):
    folder, early = finished
    late = pictures(folder / "one")
    assert len(late) == 6 and early.items() <= late.items(), "what was painted stays as it is"
    assert pictures(folder / "two").keys() == late.keys()
    for name in ("table.csv", "figures.json", "trade_off.svg", "report.html"):
        texts = [(folder / out / name).read_bytes() for out in ("one", "two")]
        assert texts[0] == texts[1], name
    found = json.loads((folder / "one" / "figures.json").read_text(encoding="utf-8"))
    assert [row["row"] for row in found["rows"]] == list(ROWS)
    assert all(row["pictures"] == 2 for row in found["rows"])
    rigid = found["rows"][1]["measures"]
    assert rigid["gain"]["total"] == 2 and "prompt" not in rigid
    assert "prompt, clip_plain, clip_photo, quality" in found["left_out"]
    assert {"dino, fgis", "aesthetic", "view_asked"} <= found["left_out"].keys()
    assert "--seeds 2" in found["left_out"]["changes between two seeds"]
    assert any("paths of another machine" in note for note in found["notes"])


MISSING = """async () => { const pictures = [...document.images];
    for (const one of pictures) one.scrollIntoView();
    await Promise.allSettled(pictures.map(one => one.decode()));
    return pictures.filter(one => !one.naturalWidth).map(one => one.src) }"""
RAGGED = """() => [...document.querySelectorAll('table')].filter(table =>
    new Set([...table.rows].map(row => row.cells.length)).size > 1).map(one => one.innerText)"""
CUT = """() => { const wide = [...document.querySelectorAll('.wide')]
        .filter(one => getComputedStyle(one).overflowX != 'auto').length;
    const cut = [...document.querySelectorAll('td, th')].filter(one =>
        one.scrollWidth > one.clientWidth + 1).map(one => one.innerText);
    return [wide, cut, document.documentElement.scrollWidth - innerWidth] }"""
KEPT = """() => { const box = document.querySelector('.wide'), name = box.querySelector('td');
    box.scrollLeft = 10000;
    const left = one => one.getBoundingClientRect().left;
    return [box.scrollLeft > 0, left(name) - left(box)] }"""


@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_the_report_in_a_browser_is_whole_and_asks_nobody(finished, tmp_path, width):
    folder, _ = finished
    with open_browser() as browser:
        page = Page(browser.new_page(viewport={"width": width, "height": 844}))
        tab, asked = page.tab, []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto((folder / "one" / "report.html").as_uri())
        assert tab.evaluate("document.images.length") == 2 + 2 * len(ROWS)
        assert tab.evaluate(MISSING) == []
        assert len(asked) > 6 and all(url.startswith("file:") for url in asked), asked
        assert tab.evaluate(RAGGED) == []
        assert tab.evaluate(CUT) == [0, [], 0], "only tables and the plot scroll sideways"
        scrolls, moved = tab.evaluate(KEPT)
        assert moved == 0 and (scrolls or width > 400), "a row keeps its name in sight"
        tab.screenshot(path=tmp_path / "report.png", full_page=True)
        assert page.problems == []
