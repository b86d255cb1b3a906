"""Commands as they are shown: they work where they are pasted."""

import shlex
import shutil
import sys
from pathlib import Path


def command(name: str, *words: object) -> str:
    """A command line; the program with its folder where the shell would not find it by its name."""
    beside = Path(sys.executable).parent / name
    found = shutil.which(name)
    program = name if found is not None or not beside.exists() else str(beside)
    return shlex.join([program, *map(str, words)])


def next_commands(config: Path) -> list[str]:
    """What people do with a finished run."""
    return [
        command("ns-viewer", "--load-config", config),
        command("ns-eval", "--load-config", config, "--output-path", config.parent / "eval.json"),
        command("pvd", "report", "--load-config", config, "--output", config.parent / "report.html"),
    ]
