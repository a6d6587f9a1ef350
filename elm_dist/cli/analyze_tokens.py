"""Commands that look into the codes of shards."""

from pathlib import Path
from typing import Annotated

import typer

from elm_dist.cli.analysis import Out, analyze, present

Shards = Annotated[list[Path], typer.Argument(metavar="SHARDS", help="Folders of token shards.")]


@analyze.command("tokens")
def analyze_tokens(
    shards: Shards,
    out: Out,
    text: Annotated[
        Path | None, typer.Option(help="A plain UTF-8 file whose words are measured alike, for contrast.")
    ] = None,
) -> None:
    """Measure how random tokens are: KL to uniform, entropy, n-gram perplexity, and the bits of codes."""
    from elm_dist.analysis.token_randomness import analyze_tokens as run

    for findings in run(shards, text):
        present(findings, out)


@analyze.command("codes")
def analyze_codes(shards: Shards, out: Out) -> None:
    """Measure how tokenizers use their codes: which occur, how often, and how even each bit is."""
    from elm_dist.analysis.code_utilisation import analyze_codes as run

    for findings in run(shards):
        present(findings, out)
