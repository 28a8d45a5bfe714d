"""A parent with two workers that write a heartbeat until somebody ends them: `python orphans.py FOLDER`."""

import sys
import time
from pathlib import Path

from lgdea_core.experiments.tables import side_by_side


def beat(path: Path) -> None:
    """Write the time, for a minute at most."""
    for _ in range(600):
        path.write_text(str(time.time()))
        time.sleep(0.1)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    list(side_by_side(beat, [folder / "a", folder / "b", folder / "c"], 2, "beats"))
