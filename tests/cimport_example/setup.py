# SPDX-License-Identifier: BSD-3-Clause
"""Builds the example. Nothing of svdfast is linked: Cython finds its .pxd where it is installed."""

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(
    name="cimport_example",
    version="0",
    py_modules=[],
    ext_modules=cythonize(
        [Extension("layer", ["layer.pyx"])], compiler_directives={"language_level": 3}
    ),
)
