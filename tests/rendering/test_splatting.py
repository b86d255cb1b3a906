"""The rasteriser: gsplat's reference, finite differences, and what must not show."""

import inspect
import math
from typing import Any

import gsplat
import pytest
import torch
from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci
from torch import Tensor

from pvd_nerfstudio.rendering import drawing, splatting
from pvd_nerfstudio.rendering.splatting import Gaussians, View, pair, project, rasterize, touch

VIEW = View(
    rotation=torch.eye(3, dtype=torch.float64),
    translation=torch.tensor([0.0, 0.0, 1.5], dtype=torch.float64),
    focal=(40.0, 44.0),
    centre=(20.0, 13.0),
    width=37,
    height=26,
)


def some(count: int, size: float = 0.05) -> Gaussians:
    """Gaussians of all shapes, needles among them, in a ball that reaches behind the camera."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Gaussians(
        means=draw(count, 3) * torch.tensor([0.5, 0.5, 0.8]),
        quats=3 * draw(count, 4),
        scales=size * (0.9 * draw(count, 3)).exp(),
        opacities=draw(count, 1).sigmoid(),
        colors=draw(count, 3).sigmoid(),
    )


def dense(means: Tensor, conics: Tensor, depths: Tensor, opacities: Tensor, colors: Tensor) -> Tensor:
    """Kerbl et al., 2023, eqs. 2 and 3, pixel by pixel: colour and opacity."""
    down, right = (torch.arange(side, dtype=means.dtype) + 0.5 for side in (VIEW.height, VIEW.width))
    down, right = torch.meshgrid(down, right, indexing="ij")
    image, through = torch.zeros(VIEW.height, VIEW.width, 4, dtype=means.dtype), torch.ones_like(right)
    for index in depths.argsort().tolist():
        if depths[index] <= 0.01:  # noqa: PLR2004
            continue
        x, y = right - means[index, 0], down - means[index, 1]
        xx, xy, yy = conics[index]
        alpha = (opacities[index] * torch.exp(-0.5 * (xx * x * x + yy * y * y) - xy * x * y)).clamp_max(0.999)
        weight = torch.where(alpha < 1 / 255, 0.0, alpha) * through
        image = image + weight[..., None] * torch.cat([colors[index], torch.ones_like(colors[index, :1])])
        through = through - weight
    return image


def test_images_are_those_of_gsplats_reference() -> None:
    scene = some(400, size=0.02)
    view = torch.eye(4, dtype=torch.float64)
    view[:3, 3] = VIEW.translation
    inner = torch.tensor([[40.0, 0.0, 20.0], [0.0, 44.0, 13.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    covariances, _ = _quat_scale_to_covar_preci(scene.quats, scene.scales, True, False)
    radii, means, depths, conics, _ = _fully_fused_projection(scene.means, covariances, view[None], inner[None], 37, 26)
    projected = project(scene, VIEW)
    seen = radii[0] > 0
    assert seen.sum() > 200
    assert torch.allclose(projected.means[seen], means[0][seen])
    assert torch.allclose(projected.conics[seen], conics[0][seen])
    depths = torch.where(seen, depths[0], 0.0)
    expected = dense(means[0], conics[0], depths, scene.opacities, scene.colors)
    for dtype, tolerance in ((torch.float64, 1e-4), (torch.float32, 1e-4)):
        cast = Gaussians(*(value.to(dtype) for value in vars(scene).values()))
        turned = View(VIEW.rotation.to(dtype), VIEW.translation.to(dtype), *list(vars(VIEW).values())[2:])
        image, opacity = rasterize(project(cast, turned), cast.opacities, cast.colors, turned, hidden=0.0)
        assert (torch.cat([image, opacity], dim=-1) - expected).abs().max() < tolerance
    assert expected[..., 3].max() > 0.9 and expected[..., 3].min() < 0.1


def test_gsplats_kernels_are_asked_for_the_same_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own functions in torch stand in for them where there is no GPU."""
    scene, signature = some(200, size=0.02), inspect.signature(gsplat.rasterization)

    def rasterization(**given: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
        signature.bind(**given)
        covariances, _ = _quat_scale_to_covar_preci(given["quats"], given["scales"], True, False)
        size = given["width"], given["height"]
        radii, means, depths, conics, _ = _fully_fused_projection(
            given["means"], covariances, given["viewmats"], given["Ks"], *size, given["eps2d"], given["near_plane"]
        )
        depths = torch.where(radii[0] > 0, depths[0], 0.0)
        image = dense(means[0], conics[0], depths, given["opacities"][:, None], given["colors"])
        return image[None, ..., :3], image[None, ..., 3:], {}

    monkeypatch.setattr(gsplat, "rasterization", rasterization)
    for own, theirs in zip(drawing.render(scene, VIEW, hidden=0.0), drawing._by_kernels(scene, VIEW)):
        torch.testing.assert_close(own, theirs, atol=1e-4, rtol=0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_gsplats_kernels_and_ours_agree_in_images_and_gradients() -> None:
    """They leave out what is farther than three standard deviations, up to 0.011 of opacity."""
    if not drawing.kernels_run("gsplat"):
        pytest.skip("gsplat's kernels do not run here")
    view = View(VIEW.rotation.float().cuda(), VIEW.translation.float().cuda(), *list(vars(VIEW).values())[2:])

    def ours(scene: Gaussians, view: View) -> tuple[Tensor, Tensor]:
        return rasterize(project(scene, view), scene.opacities, scene.colors, view, hidden=0.0)

    results = []
    for draw in (drawing._by_kernels, ours):
        scene = Gaussians(*(value.float().cuda().requires_grad_() for value in vars(some(400, size=0.02)).values()))
        image, opacity = draw(scene, view)
        (image.square().sum() + opacity.sum()).backward()
        results.append([image, opacity, *(value.grad for value in vars(scene).values())])
    for theirs, own in zip(*results):
        scale = max(1.0, float(own.abs().max()))
        assert (theirs - own).abs().max() < 0.02 * scale and (theirs - own).abs().mean() < 1e-3 * scale


def test_what_is_hidden_is_left_out_and_hardly_missed() -> None:
    scene = some(4000, size=0.1)
    images = [
        torch.cat(rasterize(project(scene, VIEW), scene.opacities, scene.colors, VIEW, hidden), dim=-1)
        for hidden in (0.0, 3e-3)
    ]
    assert 0 < (images[0] - images[1]).abs().max() <= 3e-3


def test_gradients_are_those_of_finite_differences() -> None:
    scene = some(12, size=0.2)
    values = [value.requires_grad_() for value in vars(scene).values()]

    def draw(*parts: Tensor) -> Tensor:
        gaussians = Gaussians(*parts)
        image, opacity = rasterize(project(gaussians, VIEW), gaussians.opacities, gaussians.colors, VIEW)
        waves = torch.arange(image.numel(), dtype=image.dtype).view_as(image).cos()
        return (image * waves).sum() + opacity.sin().sum()

    assert torch.autograd.gradcheck(draw, values, eps=1e-7, atol=1e-3, rtol=1e-3)


def test_gradients_through_many_portions() -> None:
    """More Gaussians than go in one portion, with a bound behind which nothing counts."""
    scene = some(300, size=0.1)
    values = [value.requires_grad_() for value in vars(scene).values()]
    image, opacity = rasterize(project(scene, VIEW), scene.opacities, scene.colors, VIEW, hidden=0.0)
    projected = project(scene, VIEW)
    expected = dense(projected.means, projected.conics, projected.depths, scene.opacities, scene.colors)
    waves = torch.arange(expected.numel(), dtype=expected.dtype).view_as(expected).cos()
    own = torch.autograd.grad((torch.cat([image, opacity], dim=-1) * waves).sum(), values)
    for got, wanted in zip(own, torch.autograd.grad((expected * waves).sum(), values)):
        assert torch.allclose(got, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("what", ["behind", "beside", "transparent", "none"])
def test_what_cannot_be_seen_leaves_no_trace(what: str) -> None:
    scene = some(0 if what == "none" else 50)
    if what == "behind":
        scene.means[:, 2] = -2.0
    if what == "beside":
        scene.means[:, 0] = 40.0
    if what == "transparent":
        scene.opacities[:] = 0.0
    values = [value.requires_grad_() for value in vars(scene).values()]
    image, opacity = rasterize(project(scene, VIEW), scene.opacities, scene.colors, VIEW)
    assert not image.any() and not opacity.any()
    (image.sum() + opacity.sum()).backward()
    assert all(value.grad is None or not value.grad.any() for value in values)


def test_only_tiles_that_show_a_gaussian_are_looked_at() -> None:
    """A needle aslant: its bounding box is the whole image."""
    turn = math.radians(45) / 2
    needle = Gaussians(
        means=torch.zeros(1, 3),
        quats=torch.tensor([[math.cos(turn), 0.0, 0.0, math.sin(turn)]]),
        scales=torch.tensor([[0.5, 1e-3, 1e-3]]),
        opacities=torch.full((1, 1), 0.9),
        colors=torch.ones(1, 3),
    )
    view = View(torch.eye(3), torch.tensor([0.0, 0.0, 1.0]), (160.0, 160.0), (80.0, 80.0), 160, 160)
    projected = project(needle, view)
    assert len(pair(projected, touch(projected, needle.opacities, view), view).tiles) < 100  # of 400


def test_long_needles_near_the_camera_are_as_thin_in_single_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    needles = Gaussians(
        means=torch.tensor([[0.0, 0.0, -1.45]], dtype=torch.float64).repeat(40, 1),
        quats=torch.randn(40, 4, generator=generator, dtype=torch.float64),
        scales=torch.tensor([[50.0, 1e-3, 1e-3]], dtype=torch.float64).repeat(40, 1),
        opacities=torch.full((40, 1), 0.6, dtype=torch.float64),
        colors=torch.ones(40, 3, dtype=torch.float64),
    )
    exact = project(needles, VIEW).conics
    single = Gaussians(*(value.float() for value in vars(needles).values()))
    view = View(VIEW.rotation.float(), VIEW.translation.float(), *list(vars(VIEW).values())[2:])
    torch.testing.assert_close(project(single, view).conics.double(), exact, rtol=1e-3, atol=1e-6)


def test_what_an_opaque_wall_hides_has_no_gradient() -> None:
    wall = Gaussians(
        means=torch.tensor([[0.0, 0.0, 0.0]] * 6 + [[0.0, 0.0, 1.0]]),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 7),
        scales=torch.tensor([[9.0, 9.0, 1e-3]] * 6 + [[0.1, 0.1, 0.1]]),
        opacities=torch.tensor([[0.99]] * 6 + [[0.7]]),
        colors=torch.rand(7, 3),
    )
    view = View(VIEW.rotation.float(), VIEW.translation.float(), *list(vars(VIEW).values())[2:])
    values = [value.requires_grad_() for value in vars(wall).values()]
    image, opacity = rasterize(project(wall, view), wall.opacities, wall.colors, view)
    gradients = torch.autograd.grad(image.square().sum() + opacity.sum(), values)
    assert all(gradient[0].any() or number == 1 for number, gradient in enumerate(gradients))
    assert not any(gradient[-1].any() for gradient in gradients)


def test_an_image_of_many_large_gaussians_is_drawn_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = some(200, size=0.2)
    values = [value.requires_grad_() for value in vars(scene).values()]
    waves = torch.arange(VIEW.height * VIEW.width * 3, dtype=torch.float64).view(VIEW.height, VIEW.width, 3).cos()
    results = []
    for most in (splatting.MOST_PAIRS, 300):
        monkeypatch.setattr(splatting, "MOST_PAIRS", most)
        image, opacity = rasterize(project(scene, VIEW), scene.opacities, scene.colors, VIEW)
        results.append([image, opacity, *torch.autograd.grad((image * waves).sum() + opacity.sum(), values)])
    for whole, banded in zip(*results):
        torch.testing.assert_close(banded, whole)
