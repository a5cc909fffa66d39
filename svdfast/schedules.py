# SPDX-License-Identifier: BSD-3-Clause
"""The public names of svdfast.training.schedules."""

from svdfast.training.schedules import *  # noqa: F403
from svdfast.training.schedules import __all__ as __all__
