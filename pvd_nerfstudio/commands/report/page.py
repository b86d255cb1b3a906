"""Pages: HTML files that need nothing outside themselves."""

import base64
from io import BytesIO
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def page(template: str, title: str, made: str, **values: Any) -> str:
    """HTML of a template of this folder.

    Args:
        template: its name.
        title: of the page.
        made: when and with what.
        values: what else the template asks for.
    """
    loader = PackageLoader("pvd_nerfstudio.commands.report", ".")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True)
    return environment.get_template(template).render(title=title, made=made, **values)


def inline(figure: "Figure") -> str:
    """A figure as an address that holds the image itself."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
