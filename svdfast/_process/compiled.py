# SPDX-License-Identifier: BSD-3-Clause
"""Loads the installed svdfast in place of a source folder without compiled modules.

Python started in a clone finds the clone's folder `svdfast` before the installed package. The clone
has no compiled modules, unless they were built in place. This file then loads the package that the
folder hides.
"""

import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path

# These two files of the installed package must equal those of the sources, so that the rest of
# `__init__` finds its names.
_SAME = ("__init__.py", "_process/version.py")


def _is_built(package: Path) -> bool:
    return any((package / f"_engine{suffix}").is_file() for suffix in EXTENSION_SUFFIXES)


def _hidden(package: Path) -> ModuleSpec | None:
    """The compiled svdfast that Python would import if the folder `package` was not there, if any."""
    folders = [folder for folder in sys.path if Path(folder).resolve() != package.parent.resolve()]
    for finder in sys.meta_path:
        spec = finder.find_spec(package.name, folders)
        if spec and spec.origin and _is_built(Path(spec.origin).parent):
            return spec
    return None


def find(package: Path) -> None:
    """Loads the installed package if the folder `package` was not compiled.

    ImportError is raised if no installed package fits.
    """
    if _is_built(package):
        return
    advice = f"run `pip install .` in {package.parent}, or start Python in another folder"
    spec = _hidden(package)
    if spec is None or spec.origin is None or spec.loader is None:
        raise ImportError(f"svdfast in {package} is not compiled, and none is installed: {advice}")
    installed = Path(spec.origin).parent
    if any((package / name).read_bytes() != (installed / name).read_bytes() for name in _SAME):
        raise ImportError(
            f"svdfast in {package} is not compiled, and {installed} is of another version: {advice}"
        )
    for name in [name for name in sys.modules if name.startswith(f"{package.name}.")]:
        del sys.modules[name]
    module = importlib.util.module_from_spec(spec)
    sys.modules[package.name] = module  # the import statement then returns it
    spec.loader.exec_module(module)


find(Path(__file__).parents[1])
