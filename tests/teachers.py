"""A tiny run of every family of teachers, made by nerfstudio's own trainer."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conftest import quiet
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.engine.trainer import TrainerConfig

from pvd_nerfstudio import tiny_cuda_nn
from pvd_nerfstudio.teacher.building import no_lpips

STEPS = 3
"""Real training steps of a teacher."""


def config_of(method: str, scene: Path, **model: Any) -> TrainerConfig:
    """A stock method on the scene, with few rays; `model` replaces options of its model."""
    config: Any = copy.deepcopy(all_methods[method])
    config.pipeline.datamanager = VanillaDataManagerConfig(
        dataparser=BlenderDataParserConfig(data=scene, alpha_color="white"),
        train_num_rays_per_batch=32,
        eval_num_rays_per_batch=32,
    )
    for name, value in model.items():
        assert hasattr(config.pipeline.model, name)
        setattr(config.pipeline.model, name, value)
    config.mixed_precision = False
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    return config


def make(
    config: TrainerConfig, folder: Path, dress: Callable[[Any], None] = lambda model: None, steps: int = STEPS
) -> Path:
    """Build, change the model with `dress`, train and save as `ns-train` does; returns the run's folder."""
    config = quiet(config, folder, config.method_name)
    config.max_num_iterations = steps
    torch.manual_seed(1)
    with no_lpips():
        config.save_config()
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        with torch.no_grad():
            dress(trainer.pipeline.model)
        if steps:
            trainer.train()
        else:
            trainer.save_checkpoint(0)
    return config.get_base_dir()


def nerfacto(scene: Path, folder: Path, method: str = "nerfacto") -> Path:
    sizes = {"log2_hashmap_size": 8, "max_res": 32, "num_levels": 4, "implementation": "torch"}
    samples = {"num_nerf_samples_per_ray": 8, "num_proposal_samples_per_ray": (16,), "num_proposal_iterations": 1}
    args = [{"hidden_dim": 16, "log2_hashmap_size": 8, "num_levels": 3, "max_res": 16, "use_linear": False}]
    contraction = {"disable_scene_contraction": True, "near_plane": 2.0, "far_plane": 6.0}
    config = config_of(method, scene, **sizes, **samples, **contraction, proposal_net_args_list=args)
    return make(config, folder, bright)


def nerfacto_tcnn(scene: Path, folder: Path) -> Path:
    """As tiny-cuda-nn saves it, with what the colours of an image are like."""
    sizes = {"log2_hashmap_size": 8, "max_res": 32, "num_levels": 4, "average_init_density": 3.0}
    samples = {"num_nerf_samples_per_ray": 8, "num_proposal_samples_per_ray": (16,), "num_proposal_iterations": 1}
    args = [{"hidden_dim": 16, "log2_hashmap_size": 8, "num_levels": 3, "max_res": 16, "use_linear": False}]
    contraction = {"disable_scene_contraction": True, "near_plane": 2.0, "far_plane": 6.0}
    config = config_of("nerfacto", scene, **sizes, **samples, **contraction, proposal_net_args_list=args)

    def dress(model: Any) -> None:
        model.field.mlp_base.model.params.mul_(10.0)
        model.field.mlp_head.tcnn_encoding.params.mul_(2.0)

    with tiny_cuda_nn.standing_in():
        return make(config, folder, dress)


def instant_ngp_tcnn(scene: Path, folder: Path) -> Path:
    """As tiny-cuda-nn saves it; its configuration has no word for that."""

    def dress(model: Any) -> None:
        model.field.mlp_base.model.params.mul_(10.0)
        model.occupancy_grid.binaries.fill_(True)

    sizes = {"log2_hashmap_size": 8, "max_res": 32, "grid_resolution": 16}
    with tiny_cuda_nn.standing_in():
        return make(config_of("instant-ngp", scene, **sizes), folder, dress, steps=0)


def depth_nerfacto(scene: Path, folder: Path) -> Path:
    """Its training needs depth images; its model is nerfacto's."""
    sizes = {"log2_hashmap_size": 8, "max_res": 32, "num_levels": 4, "implementation": "torch"}
    samples = {"num_nerf_samples_per_ray": 8, "num_proposal_samples_per_ray": (16, 8)}
    return make(config_of("depth-nerfacto", scene, **sizes, **samples), folder, bright, steps=0)


def instant_ngp(scene: Path, folder: Path, method: str = "instant-ngp") -> Path:
    """Training needs CUDA: the weights are random."""

    def dress(model: Any) -> None:
        bright(model)
        model.occupancy_grid.binaries.fill_(True)

    return make(config_of(method, scene, log2_hashmap_size=8, max_res=32, grid_resolution=16), folder, dress, steps=0)


def instant_ngp_bounded(scene: Path, folder: Path) -> Path:
    return instant_ngp(scene, folder, "instant-ngp-bounded")


def vanilla(scene: Path, folder: Path, method: str = "vanilla-nerf") -> Path:
    def dress(model: Any) -> None:
        for name in ("field", "field_coarse", "field_fine"):
            if hasattr(model, name):
                density = getattr(model, name).field_output_density.net
                density.weight *= 20.0
                density.bias += 2.0

    return make(config_of(method, scene, num_coarse_samples=8, num_importance_samples=8), folder, dress)


def mipnerf(scene: Path, folder: Path) -> Path:
    return vanilla(scene, folder, "mipnerf")


def tensorf(scene: Path, folder: Path, encoding: str = "vm") -> Path:
    """Saved after the first of its two growths, 8 to 11 cells."""

    def dress(model: Any) -> None:
        for weights in model.field.density_encoding.parameters():
            weights.mul_(10.0 if encoding == "cp" else 6.0).abs_()

    sizes = {"init_resolution": 8, "final_resolution": 16, "upsampling_iters": (1, 50)}
    components = {"num_den_components": 4, "num_color_components": 6, "num_samples": 8, "num_uniform_samples": 16}
    config = config_of("tensorf", scene, **sizes, **components, tensorf_encoding=encoding, regularization="l1")
    return make(config, folder, dress)


def tensorf_cp(scene: Path, folder: Path) -> Path:
    return tensorf(scene, folder, "cp")


def tensorf_triplane(scene: Path, folder: Path) -> Path:
    return tensorf(scene, folder, "triplane")


def neus(scene: Path, folder: Path) -> Path:
    """A sphere of radius 0.8, as its field starts; by default it has a table of tiny-cuda-nn that it does not use."""
    config = config_of(
        "neus", scene, num_samples=8, num_samples_importance=8, num_up_sample_steps=1, background_model="none"
    )
    field = config.pipeline.model.sdf_field
    field.inside_outside, field.num_layers, field.hidden_dim, field.hidden_dim_color = False, 2, 64, 32
    field.geo_feat_dim, field.bias, field.beta_init = 15, 0.8, 0.45
    field.num_levels, field.features_per_level, field.log2_hashmap_size = 2, 1, 8
    with tiny_cuda_nn.standing_in():
        return make(config, folder)


def splatfacto(scene: Path, folder: Path, degree: int = 2) -> Path:
    """A ball of Gaussians of all colours, saved before its first step, for which splatfacto needs CUDA."""
    config: Any = copy.deepcopy(all_methods["splatfacto"])
    config.pipeline.datamanager.dataparser = BlenderDataParserConfig(data=scene, alpha_color="white")
    config.pipeline.datamanager.cache_images = "cpu"
    config.pipeline.model.num_random, config.pipeline.model.random_init = 300, True
    config.pipeline.model.sh_degree, config.pipeline.model.background_color = degree, "white"

    def dress(model: Any) -> None:
        values = model.gauss_params
        values["means"].copy_(0.5 * torch.nn.functional.normalize(values["means"], dim=-1))
        values["scales"].fill_(math.log(0.06))
        values["opacities"].fill_(2.0)
        values["features_dc"].normal_()
        values["features_rest"].normal_(std=0.2)

    return make(config, folder, dress, steps=0)


def bright(model: Any) -> None:
    """A nerfacto field with density everywhere, which varies."""
    table, layers = model.field.mlp_base.model
    table.hash_table.mul_(3e3)
    layers.layers[-1].bias[0] = math.log(3 / model.field.average_init_density)


FAMILIES: dict[str, Callable[[Path, Path], Path]] = {
    "nerfacto": nerfacto,
    "nerfacto-tcnn": nerfacto_tcnn,
    "depth-nerfacto": depth_nerfacto,
    "instant-ngp": instant_ngp,
    "instant-ngp-bounded": instant_ngp_bounded,
    "instant-ngp-tcnn": instant_ngp_tcnn,
    "vanilla-nerf": vanilla,
    "mipnerf": mipnerf,
    "tensorf": tensorf,
    "tensorf-cp": tensorf_cp,
    "tensorf-triplane": tensorf_triplane,
    "neus": neus,
    "splatfacto": splatfacto,
}
"""Name of a family to what makes a run of it: (scene, output folder) to run folder."""
