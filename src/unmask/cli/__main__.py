"""`python -m unmask.cli`."""

import sys

from unmask.cli import main

sys.exit(main())
