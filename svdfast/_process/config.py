# SPDX-License-Identifier: BSD-3-Clause
"""Shows the CPU features and libraries that svdfast uses in this process, to explain its speed.

The choices are made in runtime.py (BLAS, threads) and in the compiled core (instruction set).
"""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from svdfast._blas import bfloat16_products, float32_products
from svdfast._elementwise import available_instruction_sets, selected_instruction_set
from svdfast._process import runtime

__all__ = ["Config", "show_config"]


class Config(dict[str, Any]):
    """A dict of the findings. `str()` of it is a readable table."""

    def __str__(self) -> str:
        lines = []
        for key, value in self.items():
            values = value if isinstance(value, list) else [value]
            for item in values or ["none"]:
                lines.append(f"{key:<18} {item}")
                key = ""
        return "\n".join(lines)

    __repr__ = __str__


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def show_config() -> Config:
    """The CPU's features in use, BLAS and its kernels, threads and versions.

    Returns
    -------
    Config
        A dict with the keys processor, instruction_set, instruction_sets, float32_products
        ("svdfast" or "BLAS"), bfloat16_products ("instructions" or "emulated"), threads, openmp,
        blas (a line for each loaded library), warnings (causes of a slow process, and remedies),
        versions.

    Examples
    --------
    >>> import svdfast as sf
    >>> sf.show_config()["instruction_set"] in ("baseline", "avx2", "avx512")
    True
    """
    from svdfast._engine import HAS_OPENMP

    libraries = runtime.loaded_blas()
    blas = [
        f"{'SciPy' if runtime.is_scipys(library) else 'other'}: {library.get('internal_api')} "
        f"{library.get('version')}, kernels {library.get('architecture', 'unknown')}, "
        f"{library.get('num_threads')} threads"
        for library in libraries
    ]
    warnings = [
        runtime.ADVICE.format(architecture=library.get("architecture"))
        for library in libraries
        if runtime.is_scipys(library) and runtime.is_narrow(library)
    ]
    packages = ("svdfast", "numpy", "scipy", "threadpoolctl")
    versions = [f"python {platform.python_version()}"]
    for package in packages:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{package} (run from its sources)")
    return Config(
        processor=_processor(), instruction_set=selected_instruction_set(),
        instruction_sets=list(available_instruction_sets()), float32_products=float32_products(),
        bfloat16_products=bfloat16_products(), threads=runtime.resolve_threads(None),
        openmp=HAS_OPENMP, blas=blas, warnings=warnings, versions=versions,
    )  # fmt: skip
