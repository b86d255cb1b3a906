"""The page: one HTML file that needs nothing outside itself."""

import base64
from io import BytesIO
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def page(report: dict[str, Any], figures: dict[str, "Figure"]) -> str:
    """The report as HTML.

    Args:
        report: what report.json holds.
        figures: by the names that the template has for them.
    """
    loader = PackageLoader("pvd_nerfstudio.commands.report", ".")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True)
    return environment.get_template("page.html").render(
        report=report, figures={name: inline(figure) for name, figure in figures.items()}
    )


def inline(figure: "Figure") -> str:
    """A figure as an address that holds the image itself."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
