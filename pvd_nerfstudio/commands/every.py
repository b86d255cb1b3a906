"""All of this package's commands in one; training itself is `ns-train pvd-distill`."""

import sys
from typing import Annotated

import tyro

from pvd_nerfstudio.commands.convert import Convert
from pvd_nerfstudio.commands.demo import Demo
from pvd_nerfstudio.commands.edit.command import Edit
from pvd_nerfstudio.commands.export.command import Export
from pvd_nerfstudio.commands.report.command import Report
from pvd_nerfstudio.commands.strip import Strip
from pvd_nerfstudio.commands.sweep import Sweep
from pvd_nerfstudio.commands.views import Views
from pvd_nerfstudio.errors import run_command
from pvd_nerfstudio.input.renamed import current_options

Command = (
    Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Views, tyro.conf.subcommand("views")]
    | Annotated[Edit, tyro.conf.subcommand("edit")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Strip, tyro.conf.subcommand("strip")]
)


def run() -> None:
    """What was typed."""
    run_command(
        lambda: tyro.cli(
            tyro.conf.OmitSubcommandPrefixes[Command],  # type: ignore[valid-type]
            prog="pvd",
            description="Convert trained nerfstudio runs into other architectures, and judge what came out.",
            args=current_options(sys.argv[1:]),
        ).run()
    )
