# SPDX-License-Identifier: BSD-3-Clause
"""The public names of svdfast.model.activations."""

from svdfast.model.activations import *  # noqa: F403
from svdfast.model.activations import __all__ as __all__
