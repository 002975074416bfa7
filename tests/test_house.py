"""The house rules that a reader cannot see at a glance: one-way imports, nothing assigned to."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).resolve().parents[1]
PACK = sorted([*ROOT.glob("nodes/**/*.py"), *ROOT.glob("model_patches/**/*.py")])

# Each room may import only rooms to its left.
ROOMS = ["files", "face", "encoders", "adapters", "identity", "sip", "inject", "training"]
SUFFIXES = (".safetensors", ".onnx", ".pt", ".pth")
# These import no other room.
LEAVES = ("gates", "evaluate")
ONLY_IN_FACE = {"insightface", "onnxruntime", "facexlib", "skimage", "cv2"}
NEVER_BELOW_NODES = {"folder_paths", "server", "nodes", "comfy_api", "comfy_extras"}
NO_PARTICIPLES = {"_embed", "_feed", "_need", "_seed"}


def imports(path: Path) -> list[tuple[str, int]]:
    """(dotted name, level) of every import, however deep in the file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level))
    return found


def absolute(path: Path, name: str, level: int) -> str:
    """A relative import as a dotted path from the repository root."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([*parts[: len(parts) - level], *name.split(".")])


def room(dotted: str) -> str:
    parts = dotted.split(".")
    return parts[1] if parts[0] == "model_patches" and len(parts) > 1 else ""


def test_rooms_import_one_way():
    for path in ROOT.glob("model_patches/**/*.py"):
        here = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for name, level in imports(path):
            if level == 0:
                continue
            there = room(absolute(path, name, level))
            assert not absolute(path, name, level).startswith("nodes"), path
            if here in LEAVES:
                assert there in {"", here}, f"{path}: {here} imports {there}"
            elif there in ROOMS:
                assert ROOMS.index(there) <= ROOMS.index(here), f"{path}: {here} imports {there}"


@pytest.mark.parametrize("path", PACK, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_stay_in_their_room(path):
    below = path.is_relative_to(ROOT / "model_patches")
    for name, level in imports(path):
        top = name.split(".")[0]
        if level:
            continue
        assert top not in ("flexid", "model_patches"), f"{path}: absolute import of the pack"
        if not path.is_relative_to(ROOT / "model_patches" / "face"):
            assert top not in ONLY_IN_FACE, f"{path} imports {top}; only model_patches/face may"
        if below:
            assert top not in NEVER_BELOW_NODES, f"{path} imports {top}"


@pytest.mark.parametrize("path", PACK, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_of_anybody_else_is_assigned_to(path):
    """No monkey-patching: an attribute of an imported module is never a target."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    for node in ast.walk(tree):
        targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
        if not isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            continue
        for target in targets:
            while isinstance(target, ast.Attribute):
                target = target.value
                if isinstance(target, ast.Name):
                    assert target.id not in modules, f"{path}:{node.lineno} assigns to {target.id}"


def test_the_small_world_imports_neither_setup_nor_nodes():
    """start.py's commands stand above mini/, whose scripts reach setup/pack.py through runpy."""
    for path in ROOT.glob("mini/**/*.py"):
        for name, level in imports(path):
            dotted = absolute(path, name, level) if level else name.removeprefix("flexid.")
            assert dotted.split(".")[0] not in ("setup", "nodes"), f"{path} imports {dotted}"
        text = path.read_text(encoding="utf-8")
        assert "flexid.setup" not in text and "flexid.nodes" not in text, path


def test_the_benchmark_s_command_line_loads_with_the_standard_library_alone():
    """start.py checks it before there is an environment."""
    for name in ("options", "rows", "graphs", "data", "records"):
        for found, level in imports(ROOT / "ibench" / f"{name}.py"):
            top = found.split(".")[0]
            assert level == 1 or top in sys.stdlib_module_names, f"{name} imports {found}"


def test_setup_loads_with_the_standard_library_alone():
    """It runs before there is an environment: at module level it imports nothing of the pack."""
    for path in [*ROOT.glob("setup/**/*.py"), ROOT / "start.py"]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, f"{path}:{node.lineno} leaves setup/"
                continue
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names or [alias.name for alias in node.names]:
                top = name.split(".")[0]
                assert top in sys.stdlib_module_names, f"{path}:{node.lineno} imports {top}"


def test_module_length():
    rooms = [*ROOT.glob("mini/**/*.py"), *ROOT.glob("ibench/**/*.py")]
    for path in [*PACK, ROOT / "__init__.py", *rooms]:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        limit = 40 if path == ROOT / "__init__.py" else 350
        assert lines <= limit, f"{path} has {lines} lines"


def test_private_functions_are_not_named_after_their_result():
    """`_join_prompts`, not `_joined`. A portrait's clothes are drawn by functions of their name."""
    for room in ("bench", "ibench", "mini", "model_patches", "nodes", "setup"):
        for path in ROOT.glob(f"{room}/**/*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef) and re.fullmatch("_[a-z]+ed", node.name):
                    allowed = node.name in NO_PARTICIPLES or path.parent.name == "portraits"
                    assert allowed, f"{path}:{node.lineno} {node.name}: say what it does"


def test_no_attribute_hides_behind_a_method():
    """A submodule of that name would be out of reach: Python finds the class's method first."""
    for room in ("bench", "ibench", "mini", "model_patches", "nodes", "setup", "tests"):
        for path in ROOT.glob(f"{room}/**/*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    methods = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
                    both = methods & set(assigned_attributes(node))
                    assert not both, f"{path}: {node.name} has a method and an attribute {both}"


def assigned_attributes(node: ast.ClassDef) -> list[str]:
    """Names behind `self.` that a class's methods assign to."""
    return [
        one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Attribute)
        and isinstance(one.ctx, ast.Store)
        and isinstance(one.value, ast.Name)
        and one.value.id == "self"
    ]


def test_the_pages_extensions_carry_the_packs_id():
    """So that nobody else's extension can have the same name: the page refuses the second one."""
    scripts = [path.read_text(encoding="utf-8") for path in ROOT.glob("web/js/*.js")]
    named = [
        name
        for script in scripts
        for name in re.findall(r'(?:\bname: |onOutput\()"([^"]+)"', script)
    ]
    assert len(named) >= 3
    assert all(re.fullmatch(r"flexid\.[A-Z]\w+", name) for name in named), named


def test_every_value_of_a_list_has_a_chinese_name():
    """Apart from numbers and the names of devices and files, which are the same everywhere."""
    schemas = json.loads((ROOT / "tests/nodes/schemas.json").read_text(encoding="utf-8"))
    texts = json.loads((ROOT / "locales/zh/main.json").read_text(encoding="utf-8"))["flexid"]
    values = {
        value
        for schema in schemas.values()
        for each in schema["inputs"]
        for value in each.get("options") or ()
    }
    names = {value for value in values if value.isdigit() or Path(value).suffix in SUFFIXES}
    names |= {"CPU", "CUDA", "ROCM", "CoreML"}
    assert values - names == texts["options"].keys()


def test_translations_cover_the_same_nodes():
    english = json.loads((ROOT / "locales/en/nodeDefs.json").read_text(encoding="utf-8"))
    chinese = json.loads((ROOT / "locales/zh/nodeDefs.json").read_text(encoding="utf-8"))
    assert english.keys() == chinese.keys()
    for node, texts in english.items():
        assert texts["inputs"].keys() == chinese[node]["inputs"].keys(), node
        for name, text in texts["inputs"].items():
            assert text.keys() == chinese[node]["inputs"][name].keys(), (node, name)
