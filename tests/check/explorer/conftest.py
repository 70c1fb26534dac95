"""Makes `from wrong_protocols import wrong` work in the tests of this folder, which are no package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
