"""Two runs of the suite editid become one document only where they painted the same."""

import copy
import csv
import json

import pytest
from flexid.mini.study import editid_suite as suite
from flexid.mini.study import rows
from flexid.mini.study.editid_join import check_run, join, read_earlier
from flexid.mini.study.editid_table import as_markdown
from flexid.mini.study.report import as_csv, figures_of
from pack import ROOT

pytestmark = pytest.mark.pure

STORED = ROOT / "mini" / "evaluation"
PRESET, PAIR = "editid-balanced", "vfa-0.5+flexip-0.5"


@pytest.fixture
def whole():
    """The measured document: real figures, as a file holds them."""
    return json.loads((STORED / "editid.json").read_text(encoding="utf-8"))


def part(document, ways, adapters=()):
    """What a run would have written that painted the line and these ways."""
    made = copy.deepcopy(document)
    keys = {point["row"] for point in made["line"]} | set(ways)
    made["rows"] = {key: row for key, row in made["rows"].items() if key in keys}
    made["beats_line"] = {key: document["beats_line"][key] for key in ways}
    made["adapters"] = {name: document["adapters"][name] for name in adapters}
    return made


def test_both_runs_rows_stand_in_the_order_of_the_suite(whole):
    trained = "adapter-lambda_0_other-0.75"
    earlier = part(whole, [PAIR, trained], ["lambda_0_other"])
    joined = join(earlier, part(whole, [PRESET]))
    assert list(joined["beats_line"]) == [PRESET, PAIR, trained]
    assert list(joined["rows"]) == [point["row"] for point in whole["line"]] + [
        PRESET, PAIR, trained,
    ]  # fmt: skip
    for key in ("rows", "beats_line"):
        assert all(one == whole[key][name] for name, one in joined[key].items())
    assert joined["adapters"].keys() == {"lambda_0_other"}
    assert set(as_markdown(joined).splitlines()) <= set(as_markdown(whole).splitlines())


def test_a_document_joined_to_its_part_is_itself(whole):
    assert join(part(whole, [PRESET]), whole) == whole
    assert join(whole, part(whole, [PRESET])) == whole


def test_an_unknown_way_comes_last(whole):
    other = part(whole, [PRESET])
    for key in ("rows", "beats_line"):
        other[key] = {("id-cfg-9" if k == PRESET else k): v for k, v in other[key].items()}
    assert rows.row_of("id-cfg-9") not in suite.WAYS
    assert list(join(other, whole)["beats_line"])[-1] == "id-cfg-9"


def test_tuples_of_a_run_in_memory_are_the_lists_of_a_file(whole):
    later = part(whole, [PRESET])
    later["prompts"] = [
        {k: tuple(v) if isinstance(v, list) else v for k, v in one.items()} | {"new": (1, 2)}
        for one in later["prompts"]
    ]
    earlier = json.loads(json.dumps(later))
    check_run(earlier, later)
    assert join(earlier, later)["prompts"] == earlier["prompts"]


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda d: d["settings"].update(dtype="auto"), "settings is .*'bfloat16'.*'auto'"),
        (lambda d: d["people"].update(count=99), "people is .*100.* in the earlier run and .*99"),
        (lambda d: d["prompts"].pop(), "prompts is "),
        (lambda d: d.update(split="tune"), "split is held-out in the earlier run and tune"),
        (lambda d: d["knobs"].update(w_max=9.0), "knobs is "),
        (lambda d: d["weights"].update({"vae/flexid_mini_vae.safetensors": "00"}),
         "flexid_mini_vae.safetensors of weights is 75a8"),
    ],
)  # fmt: skip
def test_another_run_is_refused_before_anything_is_painted(whole, change, fact):
    later = copy.deepcopy(whole)
    change(later)
    for refuse in (check_run, join):
        with pytest.raises(ValueError, match=fact):
            refuse(whole, later)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda d: d["rows"]["vfa-1"]["figures"]["edit"].update(mean=0.55),
         "edit of the row vfa-1 is .*0.54.* in the earlier run and .*0.55.*in one run"),
        (lambda d: d["rows"]["alone"]["figures"].pop("similarity"), "similarity of the row alone"),
        (lambda d: d.update(aim=0.1), "aim is 0.05 in the earlier run and 0.1"),
        (lambda d: d["adapters"].update(lambda_0_other={}), "lambda_0_other of adapters"),
    ],
)  # fmt: skip
def test_rows_that_both_painted_must_agree(whole, change, fact):
    later = copy.deepcopy(whole)
    change(later)
    with pytest.raises(ValueError, match=fact):
        join(whole, later)


def test_what_is_no_document_of_the_suite_is_refused(tmp_path):
    assert read_earlier(STORED / "editid.json")["aim"] == suite.AIM
    with pytest.raises(
        ValueError, match=r"flexip\.json is no document .* has adapters, aim, beats_l"
    ):
        read_earlier(STORED / "flexip.json")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match=r"a\.json is no document"):
        read_earlier(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    for name in ("a.json", "none.json"):
        with pytest.raises(ValueError, match=rf"--join .*{name}: .*Name the editid\.json"):
            read_earlier(tmp_path / name)


def test_the_table_for_programs_is_written_from_the_document(whole):
    text = as_csv(figures_of(whole))
    assert text == (STORED / "editid.csv").read_text(encoding="utf-8")
    assert {line["row"] for line in csv.DictReader(text.splitlines())} == whole["rows"].keys()
