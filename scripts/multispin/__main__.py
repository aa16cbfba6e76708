"""`python -m multispin` is the multispin command."""

import sys

from multispin.cli import main

sys.exit(main())
