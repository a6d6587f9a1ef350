"""What others found out about a run and its tokenizer, from their files: analyses, and reports of tokenizers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from elm_dist.analysis.page import Fact
from elm_dist.analysis.run_record import RunRecord, read_facts
from elm_dist.errors import EvaluationError

ANALYSIS = "analysis"  # the folder in that of a run


class Found(NamedTuple):
    """One analysis, as `elm analyze` left it."""

    title: str
    summary: Mapping[str, Any]
    settings: Mapping[str, Any]
    figure: str  # SVG


def read_findings(folder: Path) -> list[Found]:
    """Return the analyses in a folder: each a JSON file with a figure beside it."""
    found = []
    for path in sorted(folder.glob("*.json")):
        facts, figure = read_facts(path), path.with_suffix(".svg")
        if {"title", "summary", "settings"} <= facts.keys() and figure.is_file():
            found.append(Found(str(facts["title"]), facts["summary"], facts["settings"], figure.read_text("utf-8")))
    return found


def read_named_findings(folders: Sequence[Path]) -> list[Found]:
    """Return the analyses in folders that a user named; raises EvaluationError for one without any."""
    found = []
    for folder in folders:
        these = read_findings(folder)
        if not these:
            raise EvaluationError(
                f"{folder}: there are no findings here (a JSON with an SVG of the same name beside it); give "
                "--analysis the folder that an `elm analyze` wrote to with its --out"
            )
        found += these
    return found


def tokenizer_facts(record: RunRecord) -> list[Fact]:
    """Return what the run's tokenizer is, and how good its training or `elm tokenizer report` found it."""
    config = record.config.tokenizer
    found = [
        Fact("Codes of an image", f"{config.grid} x {config.code_bits} bits", f"{config.kind} in {config.directory}"),
        Fact("Image", f"{config.image_size} px", f"{config.downsampling} x {config.downsampling} pixels to a code"),
    ]
    report = _tokenizer_report(record)
    number, where = report.get("count", report.get("images")), report.get("split", "held-out")
    measured = f"mean of {number:,} {where} images" if isinstance(number, int) else f"mean of {where} images"
    for name, key, form, meaning in (
        ("PSNR", "psnr_db", "{:.2f} dB", f"of reconstructions, {measured}"),
        ("SSIM", "ssim", "{:.4f}", "1 for equal images"),
        ("Against the mean image", "mean_image_ratio", "{:.2f} x", "smaller squared error than the mean image's"),
        ("Codes used", "utilization", "{:.2%}", "of all that there could be"),
        ("Entropy of a bit", "mean_entropy_bits", "{:.4f}", "in bits, 1 for a fair coin"),
        ("Training", "steps", "{:,.0f} steps", "of the tokenizer"),
    ):
        if isinstance(value := report.get(key), int | float):
            found.append(Fact(name, form.format(value), meaning))
    if isinstance(distance := report.get("frechet_distance"), dict):
        found.append(
            Fact(distance["name"], f"{distance['reconstruction']:.4g}", "of reconstructions, 0 for equal sets")
        )
    return found


def _tokenizer_report(record: RunRecord) -> dict[str, Any]:
    """Return the figures of a tokenizer's reports on one level: its training's, and over them the one of a report.

    A report lies in a folder of its own, in that of the tokenizer or beside it, and says by a checksum whose it is.
    """
    directory = record.config.tokenizer.directory
    figures = read_facts(directory / "report.json")
    fingerprint = record.data and record.data.tokenizer_fingerprint
    for path in sorted([*directory.glob("*/report.json"), *directory.parent.glob("*/report.json")]):
        report = read_facts(path)
        settings = report.get("settings")
        if fingerprint and isinstance(settings, dict) and settings.get("tokenizer_fingerprint") == fingerprint:
            figures |= report | report["codes"] | report["bits"] | settings
    means = {name: value["mean"] for name, value in figures.items() if isinstance(value, dict) and "mean" in value}
    return figures | means
