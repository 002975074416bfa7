"""Lists, fetches and checks the public model files. `start.py models` runs it in ComfyUI's Python.

Exit codes: 0 for success; 1 when `check` finds no workflow that can run, or one of the named ones
cannot; 2 for an error; 130 when stopped.
"""

import argparse
import os
import runpy
import shlex
import sys
from pathlib import Path

SILENT = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
"""As ComfyUI's server sets them: huggingface_hub tells nobody about this machine."""
LIST, FETCH = "python3 start.py models list", "python3 start.py models fetch"


def parse(arguments):
    parser = argparse.ArgumentParser(prog="models", description=__doc__)
    add = parser.add_argument
    add("action", choices=list(ACTIONS))
    add("names", nargs="*")
    add("--tree", type=Path, help="the ComfyUI folder")
    add("--base", type=Path, help="its base directory, where that is another folder")
    add("--settings", type=Path, action="append", default=[], help="more of extra_model_paths.yaml")
    add("--accept-licences", action="store_true")
    add("--comfyui", help="how the user named that folder, for the commands that are proposed")
    return parser.parse_args(arguments)


def open_folders(options):
    """ComfyUI's own list of model folders, read as its server does, without starting it."""
    sys.path.insert(0, str(options.tree))
    import comfy.cli_args

    if options.base:
        comfy.cli_args.args.base_directory = str(options.base)
    import folder_paths
    from flexid.model_patches.files.places import NAMES

    for path in [options.tree / "extra_model_paths.yaml", *options.settings]:
        if path.is_file():
            from utils.extra_config import load_extra_path_config

            load_extra_path_config(str(path))
    for name in NAMES:
        folder_paths.add_model_folder_path(name, str(Path(folder_paths.models_dir) / name))
    return folder_paths.get_folder_paths


def list_files(options):
    """Print the table: sets, then files with size, licence, folder, purpose and how they come."""
    from flexid.model_patches.files.public_files import SETS, WEIGHTS

    lines = ["Sets, for `models fetch SET`:"]
    lines += [f"  {name:9} {chosen.about}" for name, chosen in SETS.items()]
    lines += ["", "Files, for `models fetch FILE`:"]
    for row in WEIGHTS:
        lines += [
            f"  {row.file}  {row.size}",
            f"      for      {row.needed_for}",
            f"      folder   models/{row.folder}",
            f"      from     {row.page}, {describe_version(row)}",
            f"      licence  {row.licence}{'' if row.is_free else '  (has to be accepted)'}",
            f"      checked  {describe_check(row)}",
        ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def describe_version(row):
    return f"version {row.revision}" if row.revision else "newest version (none is pinned)"


def describe_check(row):
    if row.sha256:
        by_hand = f"; not fetched, unpack {row.url} by hand" if row.is_archived else ""
        return f"{row.bytes} bytes, SHA-256 {row.sha256}{by_hand}"
    return "by the SHA-256 that the hub states; none is recorded here"


def fetch_files(options):
    """Fetch what the names stand for; ask for consent on a terminal."""
    from flexid.model_patches.files import fetch

    if not options.names:
        raise fetch.FetchError(f"Fetch what? Name sets or files; {LIST} shows them.")
    rows = fetch.choose(options.names)
    folders = open_folders(options)
    consent = options.accept_licences or accept(fetch.find_missing(rows, folders))
    sys.stdout.write(fetch.fetch(rows, folders, consent, say, ignore_progress) + "\n")
    return 0


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def ignore_progress(done, total):
    """huggingface_hub draws a bar on the terminal; elsewhere fetch says each tenth."""


def accept(rows):
    """Show the terms on a terminal and ask; elsewhere, and without terms, False."""
    from flexid.model_patches.files.fetch import describe_terms

    terms = describe_terms(rows)
    if not terms or not sys.stdin.isatty():
        return False
    say(f"These files have terms that you have to accept:\n{terms}")
    return input('Read them. Type "yes" to accept: ').strip().lower() == "yes"


def check_workflows(options):
    """Say which of the pack's workflows can run, what each lacks, and how to get it."""
    from flexid.model_patches.files.hub import FetchError
    from flexid.setup.graph_files import check_workflow, list_workflows

    known = list_workflows()
    for name in options.names:
        if name not in known:
            raise FetchError(f"{name!r} is no workflow of this pack: {', '.join(known)}.")
    folders = open_folders(options)
    verdicts = [check_workflow(known[name], folders) for name in options.names or known]
    width = max(len(verdict.name) for verdict in verdicts)
    for verdict in verdicts:
        say(f"{verdict.name:{width}}  {describe_verdict(verdict)}")
    fetch = f"{FETCH} --comfyui {shlex.quote(options.comfyui)}" if options.comfyui else FETCH
    for line in describe_files(verdicts, fetch):
        say(line)
    able = [verdict.can_run for verdict in verdicts]
    return 0 if (all(able) if options.names else any(able)) else 1


def describe_verdict(verdict):
    names = [name_file(row) for row in verdict.missing]
    names += [f"{row.file} (damaged)" for row, _ in verdict.damaged]
    return f"lacks {', '.join(names)}" if names else "can run"


def name_file(row):
    """The file's name; with the face pack's where any name would do."""
    from flexid.setup.graph_files import ANY_ONNX

    return f"{row.folder.rpartition('/')[2]}/{row.file}" if row.file == ANY_ONNX else row.file


def describe_files(verdicts, fetch):
    """Each missing or damaged file once, and the command that fetches it."""
    missing = list(dict.fromkeys(row for verdict in verdicts for row in verdict.missing))
    damaged = dict.fromkeys(pair for verdict in verdicts for pair in verdict.damaged)
    if missing:
        yield "\nMissing:"
    for row in missing:
        size = f" ({row.size})" if row.repo else ""
        yield f"  {name_file(row)}{size} in models/{row.folder}"
    for row, path in damaged:
        yield (
            f"\nDamaged: {path} has {path.stat().st_size} bytes, expected {row.bytes}. Move it "
            f"away, then: {fetch} {row.file}"
        )
    yield from advise(missing, fetch)


def advise(missing, fetch):
    """How to get what is missing: one command for what can be fetched, archives and what the table
    does not know by hand, the demo's models apart."""
    from flexid.model_patches.files.public_files import SETS, WEIGHTS, where_to_get
    from flexid.setup.graph_files import OWN

    wanted = {row for row in missing if row in WEIGHTS and not row.is_archived}
    names = []
    for name, chosen in SETS.items():
        if wanted & set(chosen.rows):
            names.append(name)
            wanted -= set(chosen.rows)
    names += sorted(row.file for row in wanted)
    if names:
        yield f"\nTo fetch: {fetch} {' '.join(names)}"
    archived = [row for row in missing if row in WEIGHTS and row.is_archived]
    if archived:
        yield f"\nBy hand: {where_to_get(archived)}"
    own = [row for row in missing if OWN in f"{row.folder}/{row.file}"]
    if any(row not in WEIGHTS and row not in own for row in missing):
        yield "\nThe note in each graph says where its other files come from."
    if own:
        yield "\nThe demo's models come with the pack: python3 start.py serve puts them in place."


ACTIONS = {"list": list_files, "fetch": fetch_files, "check": check_workflows}


def main():
    os.environ |= SILENT
    options = parse(sys.argv[1:])
    runpy.run_path(str(Path(__file__).with_name("pack.py")))["open_pack"]()
    from flexid.model_patches.files.hub import FetchError

    try:
        sys.exit(ACTIONS[options.action](options))
    except FetchError as error:
        sys.stderr.write(f"\n{error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; what has come is kept, the same command goes on from there\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
