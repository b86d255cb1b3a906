"""Masked pixels: nothing is learned from them, and no metric counts them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, distil_config
from helpers import start
from PIL import Image

from pvd_nerfstudio.student.metrics import image_metrics

MAGENTA = torch.tensor([1.0, 0.0, 1.0])


@pytest.fixture()
def masked(tmp_path: Path, scene: Path) -> Path:
    """The demo's scene, opaque, with somebody in magenta walking through the left half, and masks that hide her."""
    folder = tmp_path / "masked"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    frames = []
    for split in ("train", "test"):
        meta = json.loads((scene / f"transforms_{split}.json").read_text())
        for number, frame in enumerate(meta["frames"]):
            name = f"{split}-{number}.png"
            rgba = np.asarray(Image.open(scene / f"{frame['file_path']}.png"), dtype=float)
            rgb = rgba[..., :3] * rgba[..., 3:] / 255
            rgb[:, :20] = 255, 0, 255
            mask = np.full(rgb.shape[:2], 255, dtype=np.uint8)
            mask[:, :20] = 0
            Image.fromarray(rgb.astype(np.uint8)).save(folder / "images" / name)
            Image.fromarray(mask).save(folder / "masks" / name)
            frames.append(
                {
                    "file_path": f"images/{name}",
                    "mask_path": f"masks/{name}",
                    "transform_matrix": frame["transform_matrix"],
                }
            )
    focal = 20 / np.tan(0.5 * meta["camera_angle_x"])
    meta = {"fl_x": focal, "fl_y": focal, "cx": 20, "cy": 20, "w": 40, "h": 40, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


def test_a_mask_that_hides_everything_is_left_out() -> None:
    rgb, target = torch.rand(2, 20, 30, 3)
    nothing = torch.zeros(20, 30, 1, dtype=torch.bool)
    assert image_metrics(rgb, target, nothing) == image_metrics(rgb, target)


def test_nothing_masked_is_learned_or_counted(teacher: Run, masked: Path, tmp_path: Path) -> None:
    options = ["--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "12"]
    options += ["--pipeline.distillation.training-images", "True"]
    options += ["nerfstudio-data", "--data", str(masked), "--orientation-method", "none", "--center-method", "none"]
    options += ["--auto-scale-poses", "False", "--scene-scale", "1.5"]
    pipeline = start(distil_config(tmp_path, *options)).pipeline
    bank, data = pipeline.bank_at(0), pipeline.datamanager
    learned = bank.rays(torch.arange(bank.num_rays)).rgb
    _, drawn = data.draw_pixels(500, torch.Generator().manual_seed(0))
    _, batch = data.next_eval(0)
    for pixels in (learned, drawn[:, :3], batch["image"][:, :3]):
        assert len(pixels) and ((pixels - MAGENTA).abs().amax(dim=-1) > 0.1).all()
    pipeline.eval()
    camera, batch = data.next_eval_image(0)
    rgb = pipeline.student.get_outputs_for_camera(camera)["rgb"]
    metrics, _ = pipeline.get_eval_image_metrics_and_images(0)
    right = image_metrics(rgb[:, 20:], batch["image"][:, 20:, :3])
    assert metrics["psnr"] == pytest.approx(right["psnr"], abs=1e-3)
    assert metrics["psnr"] > image_metrics(rgb, batch["image"][..., :3])["psnr"] + 1


def test_images_over_a_colour_are_kept_to_half_a_level(teacher: Run, tmp_path: Path) -> None:
    data = start(distil_config(tmp_path, "--teacher-checkpoint", str(teacher.folder))).pipeline.datamanager
    dataset, data.keeps_alpha = data.train_dataset, False
    dataset._dataparser_outputs = replace(dataset._dataparser_outputs, alpha_color=torch.tensor([1.0, 0.9, 0.3]))
    blended = dataset.get_image_float32(0)
    height, width, channels = blended.shape
    pixels = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    kept = data.read_pixels(torch.zeros(len(pixels), dtype=torch.long), pixels).view(height, width, -1)
    assert channels == 3 and 255 * (kept - blended).abs().max() < 0.501
