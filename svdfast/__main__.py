# SPDX-License-Identifier: BSD-3-Clause
"""`python -m svdfast`: the same command as `svdfast` (svdfast/cli)."""

import sys

from svdfast.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
