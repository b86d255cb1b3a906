"""`ns-train` for nerfstudio's own methods without internet: LPIPS, whose weights they would download, is left out.

python -m benchmarks.offline nerfacto --vis tensorboard llff-data --data ../shared/data/fern
"""

from nerfstudio.scripts.train import entrypoint

from pvd_nerfstudio.teacher.building import no_lpips

if __name__ == "__main__":
    with no_lpips():
        entrypoint()
