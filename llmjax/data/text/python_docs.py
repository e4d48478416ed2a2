"""The English text in a Python installation, read with `ast`: nothing of it is run."""

import ast
import hashlib
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from llmjax.errors import UserError

# Tests, other people's packages, and files that only look like modules.
SKIPPED = {
    "__pycache__",
    "dist-packages",
    "idle_test",
    "lib-dynload",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
}
# Where statements hold statements; a definition is never inside an expression.
_BLOCKS = ("body", "cases", "handlers", "orelse", "finalbody")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def python_documents() -> Iterator[tuple[str, str]]:
    """Yields (name, text): a topic of the language reference, or a module's docstrings.

    The order is fixed: topics by name, then modules by path, docstrings as they stand in the file.
    A docstring that occurred before, in whatever module, is left out.
    """
    root = _library()
    for name, text in sorted(_topics(root).items()):
        yield f"topics/{name}", text
    seen: set[str] = set()
    for path in _modules(root):
        texts = []
        for text in docstrings(path):
            if text not in seen:
                seen.add(text)
                texts.append(text)
        if texts:
            yield path.relative_to(root).as_posix(), "\n\n".join(texts) + "\n"


def python_fingerprint() -> str:
    """A hash of every file that `python_documents` reads, and of this one, which says how."""
    root = _library()
    digest = hashlib.blake2b(Path(__file__).read_bytes(), digest_size=16)
    for path in [_topics_file(root), *_modules(root)]:
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def _library() -> Path:
    root = Path(sysconfig.get_path("stdlib"))
    if not (root / "ast.py").is_file():
        raise UserError(root, "holds no source of the standard library", "name other data.sources")
    return root


def _modules(root: Path) -> list[Path]:
    paths = (path.relative_to(root) for path in root.rglob("*.py"))
    kept = [path for path in paths if not SKIPPED & set(path.parts)]
    # Makefile-like configuration of this very build, not prose
    return [root / path for path in sorted(kept) if not path.parts[0].startswith("config-")]


def docstrings(path: Path) -> Iterator[str]:
    """Yields the docstrings of a file as they stand in it; none if it cannot be parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # a template, or a file in an old syntax
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, _DOCUMENTED):
            text = (ast.get_docstring(node) or "").strip()
            if text and _is_utf8(text):
                yield text
        inner = [child for name in _BLOCKS for child in getattr(node, name, ())]
        waiting.extend(reversed(inner))


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _topics_file(root: Path) -> Path:
    return root / "pydoc_data" / "topics.py"


def _topics(root: Path) -> dict[str, str]:
    """The dictionary that the module assigns; {} on an installation without it."""
    path = _topics_file(root)
    if not path.is_file():
        return {}
    for node in ast.parse(path.read_bytes()).body:
        value = getattr(node, "value", None)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(value, ast.Dict):
            return ast.literal_eval(value)
    return {}
