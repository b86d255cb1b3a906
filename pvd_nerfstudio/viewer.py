"""What nerfstudio's viewer shows of a distillation."""

from nerfstudio.viewer.viewer_elements import ViewerCheckbox
from torch import nn

from pvd_nerfstudio.distillation.active.levels import LEVELS, ActiveLearningConfig


class LevelSwitches(nn.Module):
    """A check box for each level of active learning. A module, because the viewer looks for elements in modules.

    Args:
        config: whose flags they switch.
    """

    def __init__(self, config: ActiveLearningConfig) -> None:
        super().__init__()
        self._config = config
        self.poses, self.rays, self.points = map(self._box, LEVELS)

    def _box(self, level: str) -> ViewerCheckbox:
        def switch(box: ViewerCheckbox) -> None:
            setattr(self._config, level, box.value)

        return ViewerCheckbox(f"Hard {level}", getattr(self._config, level), cb_hook=switch)

    def show(self) -> None:
        """Bring the boxes up to what the flags are."""
        for level in LEVELS:
            getattr(self, level).value = getattr(self._config, level)
