#!/usr/bin/env python3
"""FlexID's commands. Standard library only; nothing needs to be installed first.

python3 start.py demo        one photo in, a contact sheet out, in a private ComfyUI
python3 start.py test        lint and all tests
python3 start.py serve       ComfyUI with this pack, for use by hand
python3 start.py bench       speed and memory, as ratios
python3 start.py evaluate    the small world's figures: who is kept, what is obeyed
python3 start.py ibench      the IBench benchmark on your own models and photos
python3 start.py train NAME  train models; without NAME: what can be trained
python3 start.py models      the public model files: list, fetch, check
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - users start this with whatever they have
    sys.exit(
        "start.py needs Python 3.10 or newer, this is {}.{}; run it with another python3".format(
            *sys.version_info
        )
    )

import argparse
import os
import signal
import time
from pathlib import Path

OUTPUT = Path("flexid-demo")
TOOLS = ("test", "evaluate", "ibench", "train", "mini-train")
"""Commands that also need what requirements-dev.txt lists."""
PASS_ON = ("bench", "train", "mini-train")
"""Commands with options of their own that start.py does not know."""


def common_options() -> argparse.ArgumentParser:
    """What every command takes: which ComfyUI and which Python."""
    from setup.pins import DEFAULT_COMFYUI, RELEASES

    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("environment")
    group.add_argument(
        "--comfyui",
        type=Path,
        metavar="PATH",
        help="use this existing ComfyUI and its Python (also: COMFYUI_PATH); "
        "what it lacks goes into a layer beside it, it stays as it is",
    )
    group.add_argument(
        "--python", type=Path, metavar="FILE", help="the Python to use instead of the one found"
    )
    group.add_argument(
        "--comfyui-version",
        choices=list(RELEASES),
        help=f"set up this ComfyUI (default {DEFAULT_COMFYUI}); COMFYUI_PATH is then ignored",
    )
    group.add_argument("--fresh", action="store_true", help="rebuild the cached environment")
    return common


def parser() -> argparse.ArgumentParser:
    """The command line. Options come after the command."""
    from ibench import options as benchmark
    from mini.study.options import add_options

    common = common_options()
    main = argparse.ArgumentParser(
        prog="start.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", parents=[common], help="one photo in, a contact sheet out")
    demo.add_argument("--photo", type=Path, metavar="FILE", help="your picture of a person")
    demo.add_argument("--workflow", type=Path, metavar="FILE", help="another graph, API format")
    demo.add_argument(
        "--output", type=Path, metavar="DIR", default=OUTPUT, help="default: ./flexid-demo"
    )
    commands.add_parser(
        "test", parents=[common], help="lint and all tests; after --: arguments for pytest"
    )
    serve = commands.add_parser(
        "serve", parents=[common], help="ComfyUI by hand; after --: arguments for ComfyUI"
    )
    serve.add_argument("--port", type=int, default=8188, help="default: 8188")
    commands.add_parser(
        "bench", parents=[common], help="speed and memory; after --: arguments for the benchmark"
    )
    add_options(commands.add_parser("evaluate", parents=[common], help="the small world's figures"))
    benchmark.add_options(
        commands.add_parser(
            "ibench",
            parents=[common],
            help="IBench with your own models",
            description=benchmark.ABOUT,
        )
    )
    train = commands.add_parser(
        "train", parents=[common], help="run the trainer NAME; without a name: list them"
    )
    train.add_argument("name", nargs="?", metavar="NAME", help="its own options follow")
    commands.add_parser("mini-train", parents=[common], help="the same as: train mini")
    models = commands.add_parser(
        "models",
        parents=[common],
        help="public model files: list them, fetch them, check which workflows can run",
    )
    models.add_argument("action", nargs="?", choices=["list", "fetch", "check"], default="list")
    models.add_argument("names", nargs="*", metavar="NAME", help="sets, files; workflows to check")
    models.add_argument(
        "--accept-licences",
        action="store_true",
        help="you have read and accept the terms of files that do not allow any use",
    )
    return main


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options, with what follows the first -- under `rest`."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    main = parser()
    options, unknown = main.parse_known_args(arguments[:cut])
    if unknown and options.command not in PASS_ON:
        main.error(f"unrecognised: {' '.join(unknown)}")
    options.rest = unknown + arguments[cut + 1 :]
    if options.rest and options.command in ("demo", "evaluate", "models"):
        main.error(f"{options.command} takes nothing after --: {' '.join(options.rest)}")
    if options.command == "ibench":
        options.rest = _benchmark(main, options, arguments[:cut], arguments[cut:])
    if options.command == "evaluate":
        options.rest = _evaluation(main, options)
    if options.comfyui and options.comfyui_version:
        main.error("--comfyui and --comfyui-version exclude each other")
    if not options.comfyui and not options.comfyui_version and os.environ.get("COMFYUI_PATH"):
        options.comfyui = Path(os.environ["COMFYUI_PATH"])
    return options


def _evaluation(main: argparse.ArgumentParser, options: argparse.Namespace) -> list[str]:
    """The checked options of an evaluation, for the process that does it."""
    from mini.study.options import as_arguments, check

    try:
        check(options)
    except ValueError as error:
        main.error(str(error))
    return as_arguments(options)


def _benchmark(
    main: argparse.ArgumentParser, options: argparse.Namespace, words: list[str], rest: list[str]
) -> list[str]:
    """The checked options of a benchmark, as they were written, and ComfyUI's own after --."""
    from ibench.options import check

    check(main, options)
    own = words[words.index("ibench") + 1 :]
    return common_options().parse_known_args(own)[1] + rest


def run(options: argparse.Namespace) -> int:
    """Set up what the command needs, then do it; the exit code."""
    from setup import checks, demo, environment, existing, hand, models, pins, study, training
    from setup.benchmark import run_ibench

    if options.command == "models":
        return models.manage_models(options)
    if options.command == "demo":  # mistakes that need no set-up to be found
        options.photo = options.photo and demo.find_photo(options.photo)
        if options.workflow:
            demo.load_graph(options.workflow)
    trainer = {"train": getattr(options, "name", None), "mini-train": "mini"}
    if options.command in trainer:
        training.find(trainer[options.command])
    started = time.monotonic()
    if options.comfyui:
        tools = options.command in TOOLS
        ready = existing.attach(options.comfyui, options.python, options.fresh, tools)
    else:
        version = options.comfyui_version or pins.DEFAULT_COMFYUI
        ready = environment.prepare(version, options.python, options.fresh)
    if options.command == "demo":
        phases = demo.Phases({"environment": time.monotonic() - started})
        return demo.demo(ready, options.photo, options.workflow, options.output, phases)
    if options.command == "serve":
        return hand.serve(ready, options.port, bool(options.comfyui), options.rest)
    actions = {
        "test": checks.run_tests,
        "bench": checks.run_bench,
        "evaluate": study.evaluate,
        "ibench": run_ibench,
    }
    if options.command in trainer:
        return training.train(ready, trainer[options.command], options.rest)
    return actions[options.command](ready, options.rest)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run the command line; errors that the user can act on come without a traceback."""
    from setup.console import SetupError

    for name in ("SIGTERM", "SIGHUP"):  # so that `finally` ends the server then, too
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    try:
        return run(parse(sys.argv[1:]))
    except SetupError as error:
        sys.stderr.write(f"\n{error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; run the same command again to go on\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
