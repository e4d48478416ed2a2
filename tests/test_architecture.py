"""The floors of docs/architecture.md: who may import whom, and who may know what."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "llmjax"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = {
    0: {"devices", "errors", "interruption", "limits", "memory", "mesh", "storage"},
    1: {"data", "measures", "model", "losses", "optimizers"},
    2: {
        "baselines",
        "chat_template",
        "checkpoint",
        "config",
        "decoding",
        "distributed",
        "environment",
        "language_model",
        "metrics",
        "network",
        "origin",
        "programs",
        "run",
        "scoring",
        "state",
        "step",
        "tasks",
        "vector_steps",
    },
    3: {
        "chat",
        "choose",
        "compress",
        "convert",
        "embed",
        "evaluate",
        "evaluate_tasks",
        "evaluation",
        "fill_mask",
        "generate",
        "harness",
        "predict",
        "references",
        "report",
        "train",
    },
    4: {"__init__", "__main__", "cli"},
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}

# Library -> the only rooms that may import it.
KNOWN_TO = {
    "flax": {"model"},
    "grain": {"data"},
    "tensorflow_datasets": {"data"},
    "sentencepiece": {"convert", "data"},
    "gguf": {"convert"},
    "safetensors": {"convert"},
    "tokenizers": {"convert", "data"},
    "orbax": {"checkpoint"},
    "signal": {"train"},
    "optax": {"optimizers", "state", "step"},
    "sacrebleu": {"measures"},
    "scipy": {"measures"},
    "sklearn": {"measures"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function; not for types only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    type_only: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            type_only.update(inner for part in node.body for inner in ast.walk(part))
    names: set[str] = set()
    for node in set(ast.walk(tree)) - type_only:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            if (node.module or "").startswith("llmjax"):
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def test_every_room_has_a_floor():
    rooms = {room(module_name(path)) for path in FILES}
    assert rooms <= set(FLOOR_OF), f"rooms without a floor: {rooms - set(FLOOR_OF)}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_down(path):
    here = room(module_name(path))
    if here == "__init__":
        return  # the front door names what it offers, lazily
    for name in imports(path):
        if name.startswith("llmjax.") and room(name) in FLOOR_OF:
            assert FLOOR_OF[room(name)] <= FLOOR_OF[here], f"{path.name} reaches up to {name}"


def test_no_circles_between_rooms():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        here = room(module_name(path))
        targets = {room(n) for n in imports(path) if n.startswith("llmjax.")}
        graph.setdefault(here, set()).update((targets & set(FLOOR_OF)) - {here, "__init__"})
    graph.pop("__init__", None)
    while graph:
        free = [name for name, targets in graph.items() if not targets & set(graph)]
        assert free, f"circle among {sorted(graph)}"
        for name in free:
            del graph[name]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_libraries_stay_in_their_rooms(path):
    here = room(module_name(path))
    for name in imports(path):
        top = name.split(".")[0]
        assert top not in {"pickle", "dill", "cloudpickle", "tensorflow"}, f"{path}: {name}"
        assert not name.startswith("jax._src"), f"{path}: {name} is private"
        if top in KNOWN_TO:
            assert here in KNOWN_TO[top], f"{here} imports {top}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_mesh_axes_are_named_in_one_file(path):
    if module_name(path) == "llmjax.parallel.mesh":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant):
            assert node.value not in ("fsdp", "tensor"), f"{path}:{node.lineno} names a mesh axis"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_nothing_catches_everything(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler) and module_name(path).split(".")[1:2] != ["cli"]:
            caught = ast.dump(node.type) if node.type else "everything"
            assert "'Exception'" not in caught, f"{path}:{node.lineno}"
            assert caught != "everything", f"{path}:{node.lineno}"


# Files that may call Python's own JSON parser: on what this very process, its parent or the
# tokenizers library has just made; and the program that exports carry along, which stands alone.
PARSES_ITS_OWN_JSON = {
    "llmjax.data.chat_template.child",
    "llmjax.convert.gguf.vocabulary",
    "llmjax.convert.stablehlo.load",
    "llmjax.convert.hf.tokenizer_files",
    "llmjax.convert.hf.tokenizer_spec",
    "llmjax.data.tokenizers.added_tokens",
    "llmjax.data.tokenizers.importing",
}


def parses_json(path: Path) -> bool:
    """Whether a file calls json.load or json.loads, or takes either by name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Attribute(value=ast.Name(id="json"), attr="load" | "loads" | "JSONDecoder"):
                return True
            case ast.ImportFrom(module="json", names=names):
                return any(alias.name != "dumps" for alias in names)
    return False


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_json_is_parsed_within_limits(path):
    """By llmjax.storage, which knows limits of size and depth; Python's own parser has none."""
    if room(module_name(path)) != "storage" and module_name(path) not in PARSES_ITS_OWN_JSON:
        assert not parses_json(path), f"{path}: use llmjax.storage.parse_json or read_json"
