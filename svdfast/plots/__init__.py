# SPDX-License-Identifier: BSD-3-Clause
"""Figures of trainings, of spectra and of predictions. They need matplotlib: the extra `plot`.

Lines differ without colour, too. Figures belong to no window and to no list of pyplot's, and no
setting of matplotlib's is changed. Elsewhere: the figures of the paper's experiments (reproduce/),
and monitoring of a running training (callbacks.py).
"""

from svdfast.plots.comparison import compare
from svdfast.plots.curves import training
from svdfast.plots.predictions import confusion, residuals
from svdfast.plots.spectra import spectrum

__all__ = ["compare", "confusion", "residuals", "spectrum", "training"]
