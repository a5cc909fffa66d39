# SPDX-License-Identifier: BSD-3-Clause
"""The public names of svdfast.model.ranks."""

from svdfast.model.ranks import *  # noqa: F403
from svdfast.model.ranks import __all__ as __all__
