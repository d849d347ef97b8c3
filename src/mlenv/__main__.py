"""`python -m mlenv`: the same as `mlenv`."""

import sys

from mlenv.cli.main import main

sys.exit(main())
