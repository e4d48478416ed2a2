"""How Sphinx builds the site from these pages and from the docstrings:  make docs"""

import os
import re
from importlib.metadata import version as installed_version
from pathlib import Path

project = "llmjax"
author = "The llmjax authors"
version = release = installed_version("llmjax")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "llmjax"
html_copy_source = False
html_show_copyright = False

# Pages link to each other's headings as on a code host.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

# A dataclass lists its fields with their meaning; its signature would say the same once more.
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
autodoc_default_options = {"exclude-members": "__init__, __new__", "members": True}
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
copybutton_exclude = ".linenos, .gp, .go"

# Some pages stand elsewhere in the repository, where a code host shows them; their links follow.
ROOT = Path(__file__).parent.parent
ELSEWHERE = {"index": "README.md", "launch": "launch/README.md", "contributing": "CONTRIBUTING.md"}


def read_elsewhere(app, page, source):
    """Puts the text of the page's file before what the page itself holds."""
    if page not in ELSEWHERE:
        return
    file = ROOT / ELSEWHERE[page]
    pages = {ROOT / path: ROOT / "docs" / f"{name}.md" for name, path in ELSEWHERE.items()}

    def from_docs(link):
        target, anchor = link[1], link[2] or ""
        path = Path(os.path.normpath(file.parent / target))
        if not path.exists():
            return link[0]
        return f"]({os.path.relpath(pages.get(path, path), ROOT / 'docs')}{anchor})"

    text = re.sub(r"\]\(([^)#:]+)(#[^)]*)?\)", from_docs, file.read_text(encoding="utf-8"))
    source[0] = f"{text}\n{source[0]}"


FIELDS = {}
"""What the docstrings of fields say, by name: napoleon takes what precedes a colon for a type."""


def remember_field(app, what, name, member, options, lines):
    if what == "attribute":
        FIELDS[name] = list(lines)


def restore_field(app, what, name, member, options, lines):
    if what == "attribute":
        lines[:] = FIELDS.pop(name)


def setup(app):
    app.connect("source-read", read_elsewhere)
    app.connect("autodoc-process-docstring", remember_field, priority=100)  # napoleon: 500
    app.connect("autodoc-process-docstring", restore_field, priority=900)
