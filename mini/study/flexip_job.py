"""`start.py evaluate --suite flexip`: paints both curves, measures them and writes four files."""

from __future__ import annotations

import argparse
from pathlib import Path

from .evaluation import Note
from .figures import Claim
from .flexip_suite import TRIED, Found, balances, find_top, measure, to_json, weights_to
from .report import Study, claim_line, format_figure
from .rows import flexip_row, plain_row
from .suite import (
    INK,
    PAPER,
    Say,
    Words,
    announce,
    clear_panel,
    prepare_rows,
    run_study,
    write_figures,
    write_sheet,
)

TUNED_ON = 12
"""People of the tuning split who choose the plain adapter's last weight."""
SHOWN = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Balances on the contact sheet."""
SHEET_PROMPTS = ("laughing", "left", "oil")
OURS, PLAIN = "#1f8a5b", "#b58a2b"
SHEET = Words(
    "From the prompt to the photo",
    "FlexIP's slider on the small Flux, the same noise in a line. Cosine and ticks by the "
    "independent judge.",
    "The slider weighs two streams: at 0 the prompt, grounded in the photo; at 1 the photo.",
)


def run(options: argparse.Namespace, note: Note, say: Say) -> str:
    """The whole suite; a text for the console."""
    tuned = {"split": "tune", "people": TUNED_ON}
    tuning = prepare_rows(options, [flexip_row(1.0), *map(plain_row, TRIED)], **tuned)
    announce(tuning, say)
    top = find_top(run_study(tuning, note))
    say(f"the plain adapter keeps as much as balance 1 at a weight of about {top:g}")
    prepared = prepare_rows(options, [*balances().rows, *weights_to(top).rows])
    announce(prepared, say)
    study = run_study(prepared, note)
    found = measure(prepared.evaluation, study, top)
    folder = Path(options.out)
    write_figures(folder, "flexip", to_json(study, found, top))
    plot(study, top, folder / "flexip.png")
    shown = prepare_rows(options, [flexip_row(value) for value in SHOWN], prompts=SHEET_PROMPTS)
    columns = [f"balance {value:g}" for value in SHOWN]
    write_sheet(shown, columns, SHEET, note, folder / "flexip_sheet.png")
    return f"{describe(study, found, top)}\nwrote four files to {folder}"


def claims(found: Found) -> list[Claim]:
    """The aims of the issue, with what was found."""
    return [
        Claim("balance and FaceSim: Spearman's correlation", found.rho_identity, 0.95, True),
        Claim("balance and edits obeyed: Spearman's correlation", found.rho_edit, -0.9, False),
        Claim("the plain adapter's jump is larger by", found.jump_gain, 0.0, True),
        Claim("edits gained at balance 0.5 and equal FaceSim", found.edits_gained, 0.0, True),
    ]


def describe(study: Study, found: Found, top: float) -> str:
    """Both curves and the claims, for the console."""
    figures = study.figures
    lines = [f"{'':16}  {'FaceSim':>12}  {'edit obeyed':>12}  {'neutral kept':>12}"]
    for row in (*balances().rows, *weights_to(top).rows):
        told = [
            format_figure(metric, figures[row.key][metric]) for metric in ("similarity", "edit")
        ]
        told.append(format_figure("edit", found.copied[row.key]))
        lines.append(f"{row.title:16}  " + "  ".join(one.rjust(12) for one in told))
    jumps = [format_figure("jump", one) for one in (found.jump, found.baseline_jump)]
    lines += ["", f"jump: {jumps[0]} (the plain adapter's: {jumps[1]})"]
    return "\n".join([*lines, *map(claim_line, claims(found))])


def plot(study: Study, top: float, path: Path) -> None:
    """FaceSim and edits over both sliders, and one against the other.

    Raises ModuleNotFoundError without matplotlib, which facexlib brings along.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Sheet

    sheet = Sheet(figsize=(10.4, 4.4), dpi=140, facecolor=PAPER, layout="constrained")
    panels = sheet.subplots(1, 3)
    figures = study.figures
    kinds = (("FlexIP", balances(), 1.0, OURS), ("plain IP-Adapter", weights_to(top), top, PLAIN))
    for name, curve, last, shade in kinds:
        shares = [row.weight / last for row in curve.rows]
        told = {m: [figures[row.key][m] for row in curve.rows] for m in ("similarity", "edit")}
        for panel, metric in zip(panels, told, strict=False):
            low, high = ([getattr(one, end) for one in told[metric]] for end in ("low", "high"))
            panel.fill_between(shares, low, high, color=shade, alpha=0.15, lw=0)
            means = [one.mean for one in told[metric]]
            panel.plot(shares, means, "o-", ms=3.5, color=shade, label=name)
        across, up = ([one.mean for one in told[m]] for m in ("edit", "similarity"))
        panels[2].plot(across, up, "o-", ms=3.5, color=shade, label=name)
    names = (
        (f"balance, or weight / {top:g}", "FaceSim to the reference photo"),
        (f"balance, or weight / {top:g}", "edits obeyed"),
        ("edits obeyed", "FaceSim to the reference photo"),
    )
    for panel, (across, up) in zip(panels, names, strict=True):
        clear_panel(panel, across, up)
    panels[0].legend(frameon=False, fontsize=9, labelcolor=INK)
    FigureCanvasAgg(sheet).print_png(str(path))
