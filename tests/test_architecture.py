"""The layers of docs/architecture.md: who may import whom, and who may know what."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmjax.parallel.mesh import MESH_AXES

PACKAGE = Path(__file__).parents[1] / "llmjax"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the bottom up: a package may import those of the lines above its own, and no others.
LAYERS = (
    ("errors", "version"),
    ("limits", "interruption", "registry"),
    ("storage",),
    ("parallel",),
    ("model",),
    ("losses", "optimizers"),
    ("data",),
    ("metrics",),
    ("decoding",),
    ("engine",),
    ("scoring",),
    ("tasks",),
    ("state",),
    ("step",),
    ("run",),
    ("inference",),
    ("evaluation",),
    ("compression", "convert"),
    ("retrieval", "translation"),
    ("training",),
    ("reporting",),
    ("serving",),
    ("scaling",),
    ("cli",),
    ("__main__",),
)
LAYER_OF = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}

# Library -> the only packages that may import it.
KNOWN_TO = {
    "apsw": {"retrieval.stores"},
    "datatrove": {"data.datatrove"},
    "docx": {"translation.formats"},
    "flax": {"model"},
    "gcsfs": {"storage.stores"},
    "gguf": {"convert"},
    "grain": {"data"},
    "prometheus_client": {"serving"},
    "optax": {"optimizers", "state", "step"},
    "orbax": {"run.checkpoint"},
    "pgvector": {"retrieval.stores"},
    "psycopg": {"retrieval.stores"},
    "pypdf": {"retrieval.readers"},
    "qwix": {"model"},
    "s3fs": {"storage.stores"},
    "sacrebleu": {"metrics"},
    "safetensors": {"convert", "run.checkpoint"},
    "scipy": {"metrics", "scaling"},
    "sentencepiece": {"convert", "data"},
    "sentencex": {"data"},
    "signal": {"data.chat_template", "interruption", "scaling.engines", "serving", "training"},
    "sklearn": {"metrics"},
    "starlette": {"serving"},
    "sqlite_vec": {"retrieval.stores"},
    "tensorflow_datasets": {"data"},
    "tokenizers": {"convert", "data"},
    "uvicorn": {"serving"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


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


def graph() -> dict[str, set[str]]:
    """Module -> modules of llmjax that it imports."""
    modules = {module_name(path): path for path in FILES}
    return {name: (imports(path) & modules.keys()) - {name} for name, path in modules.items()}


def test_every_package_has_a_layer():
    packages = {package_of(module_name(path)) for path in FILES}
    assert packages - {"llmjax"} == set(LAYER_OF)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_down(path):
    here = package_of(module_name(path))
    if here == "llmjax":
        return  # the public names, each brought when it is asked for
    names = imports(path)
    assert not any(name == "llmjax" or name == "llmjax.__version__" for name in names)
    for name in names:
        there = package_of(name)
        if name.startswith("llmjax.") and there != here:
            assert LAYER_OF[there] < LAYER_OF[here], f"{path.name} reaches up to {name}"


def test_no_cycles_between_modules():
    """Inside packages as well, and through imports inside functions."""
    waiting = graph()
    waiting.pop("llmjax", None)
    while waiting:
        free = [name for name, targets in waiting.items() if not targets & waiting.keys()]
        assert free, f"import cycle among {sorted(waiting)}"
        for name in free:
            del waiting[name]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_libraries_stay_in_their_packages(path):
    here = module_name(path).removeprefix("llmjax.") + "."
    for name in imports(path):
        top = name.split(".")[0]
        assert top not in {"pickle", "dill", "cloudpickle", "tensorflow"}, f"{path}: {name}"
        assert not name.startswith("jax._src"), f"{path}: {name} is private"
        if top in KNOWN_TO:
            assert here.startswith(tuple(f"{package}." for package in KNOWN_TO[top])), name


# Calls that take names of mesh axes.
SHARDING_CALLS = (
    "P PartitionSpec all_gather all_to_all axis_index axis_size pcast pmax pmean ppermute psum "
    "psum_scatter pvary"
).split()


def named_axes(tree: ast.AST) -> Iterator[tuple[int, object]]:
    """Line and value of what a file may name mesh axes with."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value="fsdp" | "tensor"):  # words that mean nothing else
                yield node.lineno, node.value
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
                if name in SHARDING_CALLS:
                    values = [*node.args, *(keyword.value for keyword in node.keywords)]
                    for inner in (inner for value in values for inner in ast.walk(value)):
                        yield node.lineno, getattr(inner, "value", None)
            case ast.Subscript(value=ast.Attribute(attr="shape"), slice=ast.Constant(value=value)):
                yield node.lineno, value


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_mesh_axes_are_named_in_one_file(path):
    if module_name(path) == "llmjax.parallel.mesh":
        return
    for line, value in named_axes(ast.parse(path.read_text(encoding="utf-8"))):
        assert value not in MESH_AXES, f"{path}:{line} names a mesh axis"


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
    "llmjax.convert.gguf.tokenizer_writing",
    "llmjax.convert.stablehlo.load",
    "llmjax.convert.hf.tokenizer",
    "llmjax.data.tokenizers.huggingface.importing",
    "llmjax.data.tokenizers.huggingface.metadata",
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
    if package_of(module_name(path)) != "storage" and module_name(path) not in PARSES_ITS_OWN_JSON:
        assert not parses_json(path), f"{path}: use llmjax.storage.parse_json or read_json"
