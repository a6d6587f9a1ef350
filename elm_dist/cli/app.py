"""The `elm` application that the commands of this folder join, and the arguments that several of them take.

Heavy imports happen inside the commands: `elm check` must start at once and needs no torch.
"""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Train and sample ELM, the language model that draws images.", no_args_is_help=True, add_completion=False
)

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, as in configs/.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The run.directory of a training.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Settings laid over the file.")
]
