"""What two images differ by."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor


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
        "psnr": float(psnr),
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
