"""A small scene, a teacher of it and small students: what the scripts about reliability run on."""

from pathlib import Path

import tyro
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
from nerfstudio.engine.trainer import TrainerConfig

from pvd_nerfstudio.commands.demo import small_nerfacto, train
from pvd_nerfstudio.commands.demo_scene import write_scene
from pvd_nerfstudio.teacher.building import no_lpips

SMALL = """
    --pipeline.model.grid-resolution 32 --pipeline.model.render-step-size 0.05
    --pipeline.model.mlp.num-layers 3 --pipeline.model.mlp.hidden-dim 64
    --pipeline.model.vm.resolution 24 --pipeline.model.vm.start-resolution 12 --pipeline.model.vm.color-components 8
    --pipeline.model.sparse.resolution 32
    --pipeline.distillation.rays-per-chunk 256 --pipeline.distillation.points-per-chunk 512
    --pipeline.distillation.first-chunks 2 --pipeline.distillation.refresh-every 4
    --machine.device-type cpu --vis tensorboard
"""
"""Options that make a step take milliseconds."""
ALL_LEVELS = "--pipeline.active.poses True --pipeline.active.rays True --pipeline.active.points True"


def small_teacher(folder: Path) -> Path:
    """A scene of 40 pixels and a nerfacto trained on it for some seconds; the run's folder."""
    write_scene(folder / "scene", train=12, val=2, test=2, size=40)
    config = small_nerfacto(folder / "scene", steps=150)
    sizes = {"log2_hashmap_size": 12, "max_res": 64, "num_levels": 6, "features_per_level": 2}
    for name, value in sizes.items():
        setattr(config.pipeline.model, name, value)
    quiet(config, folder, "teacher")
    with no_lpips():
        return train(config, lambda share: None)[0]


def small_student(folder: Path, name: str, teacher: Path, student: str, options: str) -> TrainerConfig:
    """A conversion of it."""
    words = [
        "pvd-distill",
        "--teacher-checkpoint",
        str(teacher),
        "--student",
        student,
        "--summary",
        "False",
        *SMALL.split(),
        *options.split(),
    ]
    return quiet(tyro.cli(AnnotatedBaseConfigUnion, args=words), folder, name)


def quiet(config: TrainerConfig, folder: Path, name: str) -> TrainerConfig:
    """No log lines, no evaluation, no viewer."""
    config.output_dir, config.experiment_name, config.timestamp = folder, "small", name
    config.machine.device_type, config.vis = "cpu", "tensorboard"
    config.logging.local_writer.enable = False
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    config.viewer.quit_on_train_completion = True
    return config
