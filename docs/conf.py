# SPDX-License-Identifier: BSD-3-Clause
"""How Sphinx builds the documentation from this folder: which extensions, which pages, which theme.

    pip install ".[docs]" && sphinx-build -W --keep-going -b html docs docs/_build

Docstrings are read from the svdfast that is installed. Nothing is fetched. Elsewhere: the pages; the tests that run their examples
(tests/test_docs.py) and look at the built site (tests/test_site.py).
"""

import tomllib
from importlib.util import find_spec
from pathlib import Path

import svdfast

project = "svdfast"
author = "The svdfast developers"
copyright = author
version = release = svdfast.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
]
# Files that pages include are no pages of their own.
exclude_patterns = ["_build", "measured"]
templates_path = ["_templates"]

# `name` in a docstring is a link where there is such a name, else code.
default_role = "py:obj"
autodoc_typehints = "none"  # numpydoc's sections have the types, in words
autodoc_preserve_defaults = True  # 1 / 255, not its digits
autodoc_member_order = "bysource"
# Modules that need an extra can be documented without it.
_EXTRA = ("lightning", "onnx", "sklearn", "torch", "transformers")
autodoc_mock_imports = [name for name in _EXTRA if find_spec(name) is None]
numpydoc_show_class_members = False  # the template shows them
# Each docstring has a summary, its sections in order, and no parameter that does not exist.
numpydoc_validation_checks = {"GL05", "GL06", "GL07", "GL08", "PR02", "PR03", "PR10", "SS01"}

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]  # for tabs and cards

# The button copies lines that have a prompt, without the prompt.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

_PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

html_theme = "furo"
html_title = f"svdfast {version}"
html_favicon = "icon.svg"
html_copy_source = False
html_domain_indices = False  # the general index has the modules, too
html_show_sphinx = False
html_theme_options = {
    "source_repository": _PROJECT["urls"]["Repository"],
    "source_branch": "main",
    "source_directory": "docs/",
    # So that lines of 92 characters fit the column.
    "light_css_variables": {"code-font-size": "78%"},
    "footer_icons": [
        {"name": "Repository", "url": _PROJECT["urls"]["Repository"], "html": "Repository", "class": ""},
    ],
}
