import sys
from pathlib import Path

# The random models are shared by several files of tests.
sys.path.insert(0, str(Path(__file__).parent))
