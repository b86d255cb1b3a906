"""What two images differ by, and what evaluation and exporters make of a student's."""

from collections.abc import Callable
from pathlib import Path

import torch
from nerfstudio.model_components.renderers import RGBRenderer
from nerfstudio.models.base_model import Model
from nerfstudio.utils import colormaps
from torch import Tensor

ALIKE = 100.0
"""PSNR of two images that are the same, in dB: infinity has no mean."""
NOTHING = 1e-3
"""Opacity under which a ray has met nothing."""


def image_metrics(rgb: Tensor, target: Tensor, mask: Tensor | None = None) -> dict[str, float]:
    """PSNR, SSIM and, where its weights are on disk, LPIPS of two images `[height, width, 3]`.

    Where a mask `[height, width]` or `[height, width, 1]` is false, both count as alike, and not at all for the PSNR;
    one that is false everywhere is left out.
    torchmetrics takes a second to import, which `ns-train --help` must not pay for.
    """
    from torchmetrics.functional import structural_similarity_index_measure  # noqa: PLC0415
    from torchmetrics.functional.image import peak_signal_noise_ratio  # noqa: PLC0415

    rgb, target = rgb.clamp(0, 1), target.clamp(0, 1)
    seen = torch.ones_like(rgb[..., 0], dtype=torch.bool)
    if mask is not None and mask.any():
        seen = mask.view(rgb.shape[:2]).to(rgb.device)
    rgb = torch.where(seen[..., None], rgb, target)
    psnr = peak_signal_noise_ratio(rgb[seen], target[seen], data_range=1.0)
    pair = [image.moveaxis(-1, 0)[None] for image in (rgb, target)]
    metrics = {
        "psnr": min(float(psnr), ALIKE),
        "ssim": float(structural_similarity_index_measure(*pair, data_range=1.0)),  # type: ignore[arg-type]
    }
    lpips = cached_lpips()
    if lpips is not None:
        metrics["lpips"] = float(lpips(*pair))
    return metrics


def cached_lpips() -> Callable[[Tensor, Tensor], Tensor] | None:
    """LPIPS as nerfstudio computes it, or None when its AlexNet would have to be downloaded."""
    if not any((Path(torch.hub.get_dir()) / "checkpoints").glob("alexnet-owt-*.pth")):
        return None
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity  # noqa: PLC0415

    return lambda a, b: learned_perceptual_image_patch_similarity(a, b, net_type="alex", normalize=True)


class Judged(Model):
    """A model whose images are compared with others and exported."""

    renderer_rgb: RGBRenderer
    has_sky: bool
    """Whether what is behind everything is the model's own, and belongs to the image."""

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        """Straight colour and opacity: the background is taken out again, so that exports leave it out.

        A sky belongs to the image and is opaque, as nerfacto's is.
        """
        opacity, rgb = outputs["accumulation"], outputs[output_name]
        if self.has_sky:
            return torch.cat([rgb, torch.ones_like(opacity)], dim=-1)
        if self.renderer_rgb.background_color == "white":
            rgb = rgb - (1 - opacity)
        straight = torch.where(opacity > NOTHING, rgb / opacity.clamp_min(NOTHING), outputs[output_name])
        return torch.cat([straight.clamp(0, 1), opacity], dim=-1)

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Squared error against the pixels of a batch: what evaluation logs. Training has the pipeline's losses."""
        target = self.renderer_rgb.blend_background(batch["image"].to(self.device))
        return {"rgb_loss": (outputs["rgb"] - target).square().mean()}

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """PSNR against the pixels of a batch."""
        from torchmetrics.functional.image import peak_signal_noise_ratio  # noqa: PLC0415

        target = self.renderer_rgb.blend_background(batch["image"].to(self.device))
        return {"psnr": peak_signal_noise_ratio(outputs["rgb"], target, data_range=1.0)}

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """nerfstudio's metrics and images of one view: ground truth beside rendering, opacity, depth.

        With the teacher's rendering in the batch, that stands in the middle: `psnr_to_teacher` is the student's
        against it, `teacher_psnr` its own against the photograph.
        """
        truth = self.renderer_rgb.blend_background(batch["image"].to(self.device))
        rgb = outputs["rgb"]
        images = {
            "img": torch.cat([truth, rgb], dim=1),
            "accumulation": colormaps.apply_colormap(outputs["accumulation"]),
            "depth": colormaps.apply_depth_colormap(outputs["depth"], accumulation=outputs["accumulation"]),
        }
        # What is missing is the teacher's rendering: that is no truth.
        is_photograph, mask = batch.get("is_photograph", True), batch.get("mask")
        metrics = image_metrics(rgb, truth, mask) if is_photograph else {}
        if "teacher" in batch:
            teacher = batch["teacher"].to(rgb)
            images["img"] = torch.cat([truth, teacher, rgb], dim=1)
            metrics |= {f"{name}_to_teacher": value for name, value in image_metrics(rgb, teacher).items()}
            if is_photograph:
                metrics |= {f"teacher_{name}": value for name, value in image_metrics(teacher, truth, mask).items()}
        return metrics, images
