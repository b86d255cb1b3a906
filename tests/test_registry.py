"""What nerfstudio sees of the plugin."""

import subprocess
import sys

from nerfstudio.configs.method_configs import all_descriptions, all_methods


def test_nerfstudio_discovers_the_method() -> None:
    assert all_methods["pvd-distill"].method_name == "pvd-distill"
    assert "Distillation" in all_descriptions["pvd-distill"]


def test_registration_adds_little_to_the_start_of_ns_train() -> None:
    code = (
        "import sys, time, nerfstudio.data.dataparsers.blender_dataparser, nerfstudio.engine.trainer\n"
        "import nerfstudio.configs.method_configs\n"
        "heavy = {'torchmetrics', 'open3d', 'matplotlib.pyplot', 'av'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
