"""Runs `python -m image_building`."""

import sys

from image_building.command import main

sys.exit(main())
