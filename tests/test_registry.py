"""What nerfstudio sees of the plugin."""

import subprocess
import sys
from pathlib import Path

from nerfstudio.configs.method_configs import all_descriptions, all_methods


def test_nerfstudio_discovers_the_method() -> None:
    assert all_methods["pvd-distill"].method_name == "pvd-distill"
    assert "Distillation" in all_descriptions["pvd-distill"]


def test_a_start_from_the_shell_imports_little_and_ends_with_a_message(tmp_path: Path) -> None:
    """What ns-train does: registration imports nothing heavy, and wrong input ends with its message and status 1."""
    typed = ["ns-train", "pvd-distill", "--teacher-checkpoint", str(tmp_path / "[none]"), "--output-dir", str(tmp_path)]
    code = (
        "import sys, nerfstudio.data.dataparsers.blender_dataparser, nerfstudio.engine.trainer\n"
        "import nerfstudio.configs.method_configs\n"
        "heavy = {'torchmetrics', 'open3d', 'matplotlib.pyplot', 'av'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from nerfstudio.scripts.train import entrypoint\n"
        f"sys.argv = {typed}\n"
        "entrypoint()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 1 and "Traceback" not in said and "[none] does not exist" in said, said
    assert not list(tmp_path.iterdir())
