"""A trained run that only answers: frozen, in evaluation mode, outside every module tree."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.models.base_model import Model
from nerfstudio.utils.external import TCNN_EXISTS
from torch import Tensor

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.rendering.space import Space
from pvd_nerfstudio.teacher.adapters import Answer, adapter_of
from pvd_nerfstudio.teacher.checkpoint import TeacherRun, load_state


class FrozenTeacher:
    """A teacher that can be asked, and keeps count of the time that it takes.

    Not an `nn.Module` on purpose: a registered teacher would be switched to training mode and saved in every
    checkpoint of its student.

    Args:
        run: the trained run.
        device: where it answers.

    Raises:
        InputError: the checkpoint does not fit its configuration, or cannot be used on this machine.
    """

    def __init__(self, run: TeacherRun, device: torch.device | str) -> None:
        self.run = run
        self.device = torch.device(device)
        self.seconds = 0.0
        state = load_state(run)
        config = copy.deepcopy(run.config.pipeline.model)
        _match_implementation(config, state, run)
        adapter = adapter_of(config)
        self.space: Space = adapter.space(config)
        if "field.aabb" not in state:
            raise InputError(f"{run.checkpoint_path} has no 'field.aabb': it is not a checkpoint of {_method(run)}.")
        with no_lpips():
            self.model: Model = config.setup(
                scene_box=SceneBox(aabb=state["field.aabb"].float()),
                num_train_data=adapter.num_train_data(state),
                metadata={},
                device=device,
                grad_scaler=None,
            )
        _load_strictly(self.model, state, run)
        self.model.update_to_step(run.step)
        self.model.to(device).eval().requires_grad_(False)
        self._adapter = adapter(self.model)

    @property
    def aabb(self) -> Float[Tensor, "2 3"]:
        """The scene box."""
        return self.model.scene_box.aabb.to(self.device)

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model, proposal networks included."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def color_head(self) -> dict[str, Tensor] | None:
        """Weights of the colour head, laid out as a student's; None where the family has none that could fit."""
        return self._adapter.color_head()

    def density(self, positions: Float[Tensor, "points 3"]) -> Float[Tensor, "points 1"]:
        """Density at world positions."""
        with self._asked():
            return self._adapter.density(positions)

    def query(
        self, positions: Float[Tensor, "points 3"], directions: Float[Tensor, "points 3"], chunk: int = 1 << 16
    ) -> Answer:
        """Log-density, colour and feature at world positions seen along directions."""
        with self._asked():
            parts = [self._adapter.query(*pair) for pair in zip(positions.split(chunk), directions.split(chunk))]
            features = [part.feature for part in parts if part.feature is not None]
            return Answer(
                log_density=torch.cat([part.log_density for part in parts]),
                rgb=torch.cat([part.rgb for part in parts]),
                feature=torch.cat(features) if features else None,
            )

    def render_rays(self, rays: RayBundle, chunk: int = 1024) -> Float[Tensor, "rays 3"]:
        """The teacher's own picture of rays, with its own samples."""
        with self._asked():
            return torch.cat([self.model(rays[i : i + chunk])["rgb"] for i in range(0, len(rays), chunk)])

    def render(self, camera: Cameras) -> Float[Tensor, "height width 3"]:
        """The teacher's own picture of one camera."""
        rays = camera.to(self.device).generate_rays(camera_indices=0, keep_shape=True)
        return self.render_rays(rays.flatten()).view(*rays.shape, 3)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.no_grad():
            yield
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - start


@contextmanager
def no_lpips() -> Iterator[None]:
    """Stock models can be built without LPIPS, whose AlexNet would be downloaded; the metric is absent then."""
    from torchmetrics import Metric  # noqa: PLC0415
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity  # noqa: PLC0415

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        Metric.__init__(self)

    with mock.patch.object(LearnedPerceptualImagePatchSimilarity, "__init__", init):
        yield


def _method(run: TeacherRun) -> str:
    return f"the method '{run.config.method_name}'"


def _match_implementation(config: Any, state: dict[str, Tensor], run: TeacherRun) -> None:
    """Build the model with what its weights were made by: nerfstudio falls back to torch without saving so."""
    if not hasattr(config, "implementation"):
        return
    if not any(key.endswith(".params") for key in state):
        config.implementation = "torch"
    elif not TCNN_EXISTS:
        raise InputError(
            f"{run.checkpoint_path} was trained with tiny-cuda-nn, which is not installed here, and torch cannot read "
            "its tables. Install tiny-cuda-nn (it needs a CUDA GPU), or train the teacher again with "
            "--pipeline.model.implementation torch."
        )


def _load_strictly(model: Model, state: dict[str, Tensor], run: TeacherRun) -> None:
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"{run.checkpoint_path} does not fit {run.config_path}: {error}") from error
    missing = [key for key in result.missing_keys if not key.startswith("lpips.")]
    if missing or result.unexpected_keys:
        raise InputError(
            f"{run.checkpoint_path} does not fit {_method(run)} as {run.config_path} describes it. "
            f"Missing: {_first(missing)}. Unexpected: {_first(result.unexpected_keys)}. "
            "Was config.yml edited, or the checkpoint copied from another run?"
        )


def _first(keys: list[str], count: int = 3) -> str:
    more = f" and {len(keys) - count} more" if len(keys) > count else ""
    return ", ".join(keys[:count]) + more if keys else "none"
