"""`start.py evaluate --suite dynamicid`: one person, two people, two tables and a sheet."""

from __future__ import annotations

import argparse
from pathlib import Path

from .dynamicid_couples import Couples, pair_people
from .dynamicid_painter import PeoplePainter
from .dynamicid_rows import ONE, PROMPTS, SCENES, TWO
from .dynamicid_sheet import draw_sheet
from .dynamicid_suite import claims, tables, to_json
from .evaluation import Note, duration
from .report import claim_line
from .suite import Say, prepare_rows, run_study, write_figures


def run(options: argparse.Namespace, note: Note, say: Say) -> str:
    """The whole suite; a text for the console. Raises ValueError for fewer than two people."""
    if options.people < 2:
        raise ValueError(
            f"--people {options.people}: expected 2 or more, to paint two side by side"
        )
    prepared = prepare_rows(options, ONE, prompts=options.prompts or PROMPTS)
    evaluation = prepared.evaluation
    evaluation.painter = painter = PeoplePainter(prepared.studio)
    evaluation.note = note
    pairs = pair_people(evaluation.study.people)
    couples = Couples(evaluation, painter, pairs)
    alone, seconds = prepared.estimate()
    wide = couples.to_paint()
    say(
        f"{len(evaluation.study.people)} {options.split} people x {len(evaluation.study.prompts)} "
        f"prompts x {len(ONE)} rows, {len(pairs)} pairs x {len(SCENES)} scenes x {len(TWO)} rows: "
        f"{alone} and {wide} pictures are missing, about {duration((alone + 2 * wide) * seconds)}"
    )
    study = run_study(prepared, note)
    two = couples.run()
    folder = Path(options.out)
    write_figures(folder, "dynamicid", to_json(study, two, pairs))
    judge = next(iter(evaluation.judges.values()))
    draw_sheet(painter, evaluation.photo, judge, folder / "dynamicid_sheet.png")
    told = [*tables(study, two), "\n".join(map(claim_line, claims(study.measured, two)))]
    return "\n\n".join([*told, f"wrote three files to {folder}"])
