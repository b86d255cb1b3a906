"""Gaussians to pixels (Kerbl et al., 2023), in plain torch: projection, tiles, compositing from front to back.

The image is cut into tiles. Within a tile the exponent of a Gaussian is a quadratic function of the pixel's position,
so those of many Gaussians at all pixels of a tile are one product of matrices: six coefficients times six powers. What
is composited, and its gradient, goes over a tile's Gaussians in portions, nearest first, and ends where nothing shows
through any more. So memory is bounded, whatever is drawn.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

BLUR = 0.3
"""Pixels squared that are added to the variance of a projected Gaussian, lest it falls between pixels."""
LEAST_ALPHA = 1 / 255
"""What covers less is left out, as in the original."""
LARGEST_ALPHA = 0.999
"""What covers more counts as this, so that something is left to be divided by."""
CLOSEST = 0.01
"""Distance from the camera's plane within which nothing is drawn."""
BEYOND = 0.3
"""Share of half an image beyond its border up to which the linear approximation of the perspective is believed."""
TILE = 8
"""Pixels along a tile's side."""
AT_ONCE = 32
"""Gaussians of a tile that are composited in one go."""
TILES_AT_ONCE = 64
MOST_PAIRS = 1 << 22
"""Pairs of a Gaussian and a tile that are held at once; an image of more is drawn in bands."""


@dataclass
class Gaussians:
    """What is drawn."""

    means: Float[Tensor, "gaussians 3"]
    quats: Float[Tensor, "gaussians 4"]
    """Rotations, w first, of any length but 0."""
    scales: Float[Tensor, "gaussians 3"]
    """Standard deviations along the axes, in world units."""
    opacities: Float[Tensor, "gaussians 1"]
    colors: Float[Tensor, "gaussians channels"]
    """As they are seen from the camera; any further channels are composited as they are."""


@dataclass(frozen=True)
class View:
    """A pinhole camera: x to the right, y down, z forward."""

    rotation: Float[Tensor, "3 3"]
    """World to camera."""
    translation: Float[Tensor, "3"]
    focal: tuple[float, float]
    centre: tuple[float, float]
    width: int
    height: int

    @property
    def position(self) -> Float[Tensor, "3"]:
        """Where the camera stands in the world."""
        return -self.rotation.T @ self.translation


def view_of(camera: Cameras) -> View:
    """A camera of nerfstudio's as if it had no lens."""
    numbers = [float(getattr(camera, name).flatten()[0]) for name in ("fx", "fy", "cx", "cy")]
    size = int(camera.width.flatten()[0]), int(camera.height.flatten()[0])
    return view_at(camera.camera_to_worlds.view(-1, 3, 4)[0], numbers, *size)


def view_at(pose: Float[Tensor, "3 4"], intrinsics: list[float], width: int, height: int) -> View:
    """A pinhole camera, of nerfstudio's camera to world (x to the right, y up, z backwards), and fx, fy, cx, cy.

    There is no product of matrices in it: in mixed precision it would be one of halves.
    """
    fx, fy, cx, cy = intrinsics
    rotation = torch.cat([pose[:, :1], -pose[:, 1:3]], dim=1).T
    return View(rotation, -(rotation * pose[:, 3]).sum(dim=-1), (fx, fy), (cx, cy), width, height)


@dataclass
class Projected:
    """Gaussians in the image."""

    means: Float[Tensor, "gaussians 2"]
    """In pixels; the middle of the first one is (0.5, 0.5)."""
    conics: Float[Tensor, "gaussians 3"]
    """Inverse covariance: xx, xy, yy."""
    variances: Float[Tensor, "gaussians 2"]
    """Of x and of y, without gradient."""
    depths: Float[Tensor, "gaussians"]
    """Along the camera's axis."""


def project(gaussians: Gaussians, view: View) -> Projected:
    """Gaussians as a camera sees them: the perspective is taken to be linear about each (Zwicker et al., 2001)."""
    fx, fy = view.focal
    cx, cy = view.centre
    x, y, z = (gaussians.means @ view.rotation.T + view.translation).unbind(dim=-1)
    inverse = 1 / torch.where(z > CLOSEST, z, 1.0)
    u, v = x * inverse, y * inverse
    margin = BEYOND * 0.5 * view.width / fx, BEYOND * 0.5 * view.height / fy
    slope_x = u.clamp(-cx / fx - margin[0], (view.width - cx) / fx + margin[0])
    slope_y = v.clamp(-cy / fy - margin[1], (view.height - cy) / fy + margin[1])
    axes = rotations(gaussians.quats) * gaussians.scales[:, None, :]
    along = view.rotation @ axes
    across_x = fx * inverse[:, None] * (along[:, 0] - slope_x[:, None] * along[:, 2])
    across_y = fy * inverse[:, None] * (along[:, 1] - slope_y[:, None] * along[:, 2])
    xx, yy = across_x.square().sum(dim=-1) + BLUR, across_y.square().sum(dim=-1) + BLUR
    xy = (across_x * across_y).sum(dim=-1)
    # Without the cancellation of xx yy - xy² in what is long and thin.
    cross = torch.linalg.cross(across_x, across_y).square().sum(dim=-1)
    determinant = cross + BLUR * (xx + yy) - BLUR**2
    return Projected(
        means=torch.stack([fx * u + cx, fy * v + cy], dim=-1),
        conics=torch.stack([yy, -xy, xx], dim=-1) / determinant[:, None],
        variances=torch.stack([xx, yy], dim=-1).detach(),
        depths=z,
    )


def rotations(quats: Float[Tensor, "gaussians 4"]) -> Float[Tensor, "gaussians 3 3"]:
    """Matrices of quaternions, w first, of any length."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(dim=-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).view(-1, 3, 3)


@dataclass
class Pairs:
    """Which Gaussian may be seen in which tile: pairs, tile by tile, nearest first."""

    gaussians: Int[Tensor, "pairs"]
    tiles: Int[Tensor, "pairs"]
    starts: Int[Tensor, "tiles"]
    counts: Int[Tensor, "tiles"]
    by_gaussian: Int[Tensor, "pairs"]
    """The same pairs, Gaussian by Gaussian."""
    offsets: Int[Tensor, "gaussians"]
    """Where those of a Gaussian begin in `by_gaussian`."""
    columns: int
    """Tiles from left to right."""


@dataclass
class Touched:
    """The tiles that the bounding box of each Gaussian touches."""

    first: Int[Tensor, "gaussians 2"]
    spans: Int[Tensor, "gaussians 2"]
    """Tiles from left to right and from top to bottom; none where it is not seen at all."""
    reach: Float[Tensor, "gaussians"]
    """How far it covers anything by `LEAST_ALPHA`, in squared standard deviations."""

    @property
    def total(self) -> Int[Tensor, "gaussians"]:
        """How many there are."""
        return self.spans.prod(dim=-1)


@torch.no_grad()
def touch(projected: Projected, opacities: Float[Tensor, "gaussians 1"], view: View) -> Touched:
    """Find the tiles in which a Gaussian may cover something."""
    reach = 2 * (opacities[:, 0] / LEAST_ALPHA).log()
    half = (reach.clamp_min(0)[:, None] * projected.variances).sqrt()
    low, high = (((projected.means + sign * half) / TILE).floor() for sign in (-1, 1))
    first, last = (_within(tiles, view).long() for tiles in (low, high + 1))
    spans = (last - first).clamp_min(0)
    return Touched(first, spans * ((reach > 0) & (projected.depths > CLOSEST))[:, None], reach)


def _within(tiles: Float[Tensor, "gaussians 2"], view: View) -> Float[Tensor, "gaussians 2"]:
    limits = math.ceil(view.width / TILE), math.ceil(view.height / TILE)
    return torch.stack([tiles[:, axis].clamp(0, limit) for axis, limit in enumerate(limits)], dim=-1)


@torch.no_grad()
def pair(projected: Projected, touched: Touched, view: View) -> Pairs:
    """List the tiles in which a Gaussian covers any pixel by `LEAST_ALPHA`."""
    columns, rows = math.ceil(view.width / TILE), math.ceil(view.height / TILE)
    total = touched.total
    seen = total.nonzero()[:, 0]
    seen = seen[projected.depths[seen].argsort(stable=True)]
    total = total[seen]
    gaussians = seen.repeat_interleave(total)
    local = torch.arange(len(gaussians), device=seen.device) - (total.cumsum(0) - total).repeat_interleave(total)
    width = touched.spans[:, 0].index_select(0, gaussians)
    corner = touched.first.index_select(0, gaussians)
    x, y = corner[:, 0] + local % width, corner[:, 1] + local // width
    # The bounding box of what lies aslant has empty corners.
    middle = TILE * (torch.stack([x, y], dim=-1) + 0.5) - projected.means.index_select(0, gaussians)
    xx, xy, yy = projected.conics.index_select(0, gaussians).unbind(dim=-1)
    distance = (xx * middle[:, 0] ** 2 + 2 * xy * middle[:, 0] * middle[:, 1] + yy * middle[:, 1] ** 2).clamp_min(0)
    widest = (xx + yy) / 2 + (((xx - yy) / 2) ** 2 + xy**2).sqrt()
    near = (
        distance.sqrt() - (TILE - 1) / math.sqrt(2) * widest.sqrt() <= touched.reach.index_select(0, gaussians).sqrt()
    )
    gaussians, tiles = gaussians[near], (y * columns + x)[near]
    tiles, order = tiles.sort(stable=True)
    gaussians = gaussians[order]
    counts = torch.bincount(tiles, minlength=columns * rows)
    by_gaussian = gaussians.argsort(stable=True)
    each = torch.bincount(gaussians, minlength=len(touched.reach))
    return Pairs(gaussians, tiles, counts.cumsum(0) - counts, counts, by_gaussian, each.cumsum(0) - each, columns)


def _below(projected: Projected, top: int) -> Projected:
    """The same in an image that begins so many pixels further down."""
    return replace(projected, means=projected.means - projected.means.new_tensor([0.0, float(top)]))


def rasterize(
    projected: Projected,
    opacities: Float[Tensor, "gaussians 1"],
    colors: Float[Tensor, "gaussians channels"],
    view: View,
    hidden: float = 1e-4,
) -> tuple[Float[Tensor, "height width channels"], Float[Tensor, "height width 1"]]:
    """Composite what was projected.

    Args:
        projected: where Gaussians are in the image.
        opacities: of the Gaussians.
        colors: of the Gaussians, or whatever else is wanted of them.
        view: the camera.
        hidden: transmittance under which what is behind is left out.

    Returns:
        The colours, premultiplied with the opacity, and the opacity.
    """
    touched = touch(projected, opacities, view)
    if int(touched.total.sum()) > MOST_PAIRS and view.height > TILE:
        upper = TILE * (math.ceil(view.height / TILE) // 2)
        bands = [
            rasterize(_below(projected, top), opacities, colors, replace(view, height=height), hidden)
            for top, height in ((0, upper), (upper, view.height - upper))
        ]
        images, covered = zip(*bands)
        return torch.cat(images), torch.cat(covered)
    pairs = pair(projected, touched, view)
    composited = _Composite.apply(projected.means, projected.conics, opacities, colors, pairs, view, hidden)
    return composited[..., :-1], composited[..., -1:]


class _Composite(torch.autograd.Function):
    """Colours and opacity of all pixels, `[height, width, channels + 1]`.

    Both directions go over the same portions; the way back computes them again and remembers none.
    """

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        conics: Tensor,
        opacities: Tensor,
        colors: Tensor,
        pairs: Pairs,
        view: View,
        hidden: float,
    ) -> Tensor:
        """Compositing from front to back (Kerbl et al., 2023, eq. 3)."""
        tiles = _Tiles(means, conics, opacities, colors, pairs)
        out = colors.new_zeros(len(pairs.counts), TILE * TILE, colors.shape[1] + 1)
        for portion in tiles.portions(hidden):
            out[portion.tiles] += portion.weights.transpose(1, 2) @ tiles.painted(portion)
        ctx.save_for_backward(means, conics, opacities, colors, out)
        ctx.pairs, ctx.view, ctx.hidden = pairs, view, hidden
        return _untiled(out, pairs.columns, view)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of means, conics, opacities and colours, in one walk from front to back."""
        means, conics, opacities, colors, out = ctx.saved_tensors
        pairs = ctx.pairs
        tiles = _Tiles(means, conics, opacities, colors, pairs)
        wanted = _tiled(gradients[0], pairs.columns, len(pairs.counts))
        # What lies behind a Gaussian and is dimmed by it: all that the pixel has, less what lies before it.
        behind = (out * wanted).sum(dim=-1)
        of_pairs = colors.new_zeros(len(pairs.gaussians) + 1, 6 + colors.shape[1])
        for portion in tiles.portions(ctx.hidden):
            asked = wanted[portion.tiles]
            worth = tiles.painted(portion) @ asked.transpose(1, 2)
            seen = portion.weights * worth
            rest = behind[portion.tiles][:, None] - seen.cumsum(dim=1)
            behind[portion.tiles] = rest[:, -1]
            of_alpha = portion.transmittances * worth - rest / (1 - portion.alphas)
            is_free = portion.is_free & (portion.transmittances > 0)
            of_exponent = (of_alpha * portion.alphas).masked_fill_(~is_free, 0.0)
            of_pairs[portion.pairs, :6] = of_exponent @ tiles.powers.T
            of_pairs[portion.pairs, 6:] = portion.weights @ asked[..., :-1]
        return (*tiles.of_gaussians(of_pairs[:-1]), None, None, None)


@dataclass
class _Portion:
    """Some Gaussians of some tiles, nearest first."""

    tiles: Int[Tensor, "tiles"]
    pairs: Int[Tensor, "tiles some"]
    """Numbers of the pairs; behind the last one where a tile has no more."""
    alphas: Float[Tensor, "tiles some pixels"]
    transmittances: Float[Tensor, "tiles some pixels"]
    """Of what lies before each; 0 where that hides it."""
    weights: Float[Tensor, "tiles some pixels"]
    is_free: Tensor
    """Whether an alpha follows its exponent, and is not at a bound."""


class _Tiles:
    """Pairs as quadratic functions of the pixel, relative to the middle of its tile."""

    def __init__(self, means: Tensor, conics: Tensor, opacities: Tensor, colors: Tensor, pairs: Pairs) -> None:
        self._pairs = pairs
        index = pairs.gaussians
        corner = torch.stack([pairs.tiles % pairs.columns, pairs.tiles // pairs.columns], dim=-1)
        x, y = (TILE * (corner + 0.5) - means.index_select(0, index)).unbind(dim=-1)
        xx, xy, yy = conics.index_select(0, index).unbind(dim=-1)
        self._place = x, y, xx, xy, yy
        self._opacities = opacities
        constant = opacities[:, 0].log().index_select(0, index)
        constant = constant - 0.5 * (xx * x * x + 2 * xy * x * y + yy * y * y)
        terms = [constant, -(xx * x + xy * y), -(xy * x + yy * y), -0.5 * xx, -xy, -0.5 * yy]
        none = torch.zeros_like(terms[0][:1])
        coefficients = [torch.cat([term, none - 1e4 if number == 0 else none]) for number, term in enumerate(terms)]
        self._coefficients = torch.stack(coefficients, dim=-1)
        one = torch.ones_like(opacities)
        self._painted = torch.cat([colors, one], dim=-1).index_select(0, index)
        self._painted = torch.cat([self._painted, torch.zeros_like(self._painted[:1])])
        side = torch.arange(TILE, device=means.device) + 0.5 - TILE / 2
        v, u = torch.meshgrid(side, side, indexing="ij")
        u, v = u.flatten().to(means), v.flatten().to(means)
        self.powers = torch.stack([torch.ones_like(u), u, v, u * u, u * v, v * v])

    def painted(self, portion: _Portion) -> Float[Tensor, "tiles some channels"]:
        """Colours of a portion, and 1 for the opacity."""
        return self._painted[portion.pairs]

    def portions(self, hidden: float) -> Iterator[_Portion]:
        """All that can be seen, from front to back."""
        pairs = self._pairs
        order = pairs.counts.argsort(descending=True, stable=True)
        order = order[pairs.counts[order] > 0]
        for some in order.split(TILES_AT_ONCE) if len(order) else ():
            yield from self._portions_of(some, hidden)

    def _portions_of(self, tiles: Int[Tensor, "tiles"], hidden: float) -> Iterator[_Portion]:
        """Those of some tiles, the fullest first."""
        pairs = self._pairs
        before = torch.ones(len(tiles), 1, TILE * TILE, dtype=self.powers.dtype, device=tiles.device)
        most, begin = int(pairs.counts[tiles[0]]), 0
        while len(tiles):
            counts = pairs.counts[tiles][:, None]
            numbers = torch.arange(begin, min(begin + AT_ONCE, most), device=tiles.device)
            index = torch.where(numbers < counts, pairs.starts[tiles][:, None] + numbers, len(pairs.gaussians))
            alphas = (self._coefficients[index] @ self.powers).exp_()
            is_free = (alphas >= LEAST_ALPHA) & (alphas < LARGEST_ALPHA)
            alphas = alphas.clamp_(max=LARGEST_ALPHA).masked_fill_(alphas < LEAST_ALPHA, 0.0)
            through = before * (1 - alphas).cumprod(dim=1)
            transmittances = torch.cat([before, through[:, :-1]], dim=1)
            transmittances.masked_fill_(transmittances < hidden, 0.0)
            yield _Portion(tiles, index, alphas, transmittances, alphas * transmittances, is_free)
            begin, before = begin + AT_ONCE, through[:, -1:]
            goes_on = (before >= hidden).any(dim=-1)[:, 0] & (counts > begin)[:, 0]
            tiles, before = tiles[goes_on], before[goes_on]

    def of_gaussians(self, of_pairs: Float[Tensor, "pairs numbers"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of means, conics, opacities and colours."""
        x, y, xx, xy, yy = self._place
        c, u, v, uu, uv, vv = of_pairs[:, :6].unbind(dim=-1)
        numbers = [
            c * (xx * x + xy * y) + u * xx + v * xy,
            c * (xy * x + yy * y) + u * xy + v * yy,
            -0.5 * (c * x * x + uu) - u * x,
            -(c * x * y + uv) - u * y - v * x,
            -0.5 * (c * y * y + vv) - v * y,
            c,
        ]
        values = torch.cat([torch.stack(numbers, dim=-1), of_pairs[:, 6:]], dim=-1)
        pairs = self._pairs
        total = torch.nn.functional.embedding_bag(pairs.by_gaussian, values, pairs.offsets, mode="sum")
        return total[:, :2], total[:, 2:5], total[:, 5:6] / self._opacities.clamp_min(LEAST_ALPHA), total[:, 6:]


def _untiled(tiled: Float[Tensor, "tiles pixels channels"], columns: int, view: View) -> Tensor:
    rows, channels = len(tiled) // columns, tiled.shape[-1]
    image = (
        tiled.view(rows, columns, TILE, TILE, channels).transpose(1, 2).reshape(rows * TILE, columns * TILE, channels)
    )
    return image[: view.height, : view.width]


def _tiled(image: Float[Tensor, "height width channels"], columns: int, count: int) -> Tensor:
    rows, (height, width, channels) = count // columns, image.shape
    padded = image.new_zeros(rows * TILE, columns * TILE, channels)
    padded[:height, :width] = image
    return padded.view(rows, TILE, columns, TILE, channels).transpose(1, 2).reshape(count, TILE * TILE, channels)
