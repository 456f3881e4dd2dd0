"""What importing the model costs beside importing timm, which it cannot do without."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

_MODEL = "from umedpt_lightning.model import MultiTaskModel"
_TIMM = "import timm"
#: Seconds of the processor, of all threads, and the most memory in KiB.
_TELL = "import json, resource; u = resource.getrusage(resource.RUSAGE_SELF); "
_TELL += "print(json.dumps([u.ru_utime + u.ru_stime, u.ru_maxrss]))"


def measure(quick: bool = False) -> dict[str, float]:
    """CPU time and peak memory of the one over those of the other, each in a new process, interleaved."""
    ratios = []
    for run in range(3):
        (mine, memory), (timm, timms_memory) = _cost(_MODEL), _cost(_TIMM)
        if run:  # the first fills the file cache
            ratios.append((mine / timm, memory / timms_memory))
    time, space = (statistics.median(column) for column in zip(*ratios, strict=True))
    return {"start.import_model_over_import_timm": time, "start.memory_model_over_import_timm": space}


def _cost(statement: str) -> tuple[float, float]:
    command = [sys.executable, "-c", f"{statement}\n{_TELL}"]
    seconds, memory = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return seconds, memory
