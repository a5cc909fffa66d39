# SPDX-License-Identifier: BSD-3-Clause
"""Settings of a training side by side, as tables of cases have them. Elsewhere: any case."""

import dataclasses

import svdfast as sf

FIELDS = {field.name for field in dataclasses.fields(sf.Factoring)}


def flat(**settings):
    """Arguments of `train`: settings of a Factoring among them are put into one, unless there is one."""
    method = {name: settings.pop(name) for name in list(settings) if name in FIELDS}
    return ({"factoring": sf.Factoring(**method)} if method else {}) | settings
