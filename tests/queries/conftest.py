import sys
from pathlib import Path

# The enumeration that posteriors are tested against is shared.
sys.path.insert(0, str(Path(__file__).parent))
