# SPDX-License-Identifier: BSD-3-Clause
"""`python -m svdfast`: the same command as `svdfast`. What it does is in cli.py."""

import sys

from svdfast.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
