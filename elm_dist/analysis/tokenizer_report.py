"""The job behind `elm tokenizer report`: how well a trained tokenizer gives images back, and how it uses its codes.

Writes `report.json`, every number and setting, and `report.html`, the same to look at.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from elm_dist.analysis.page import Fact
from elm_dist.analysis.real_images import read_batches
from elm_dist.analysis.tokenizer_measures import TokenizerMeasures, measure_tokenizer
from elm_dist.analysis.tokenizer_page import render_tokenizer_page
from elm_dist.analysis.tokenizer_plots import draw_plots
from elm_dist.checkpoint.tokenizer import architecture, load_tokenizer, tokenizer_fingerprint
from elm_dist.data.samples import ImageSet, open_images
from elm_dist.data.shards import Split
from elm_dist.devices import choose_device
from elm_dist.errors import EvaluationError
from elm_dist.evaluation.features import FeatureExtractor, FeatureName, load_features
from elm_dist.files import replace_text

JSON_FILE, PAGE_FILE = "report.json", "report.html"
FEWEST_IMAGES = 4  # two in each half that the Frechet distance is compared on


@dataclass(frozen=True)
class TokenizerReport:
    """What was measured, on what and with which features; `str` writes the figures out."""

    settings: dict[str, Any]
    measures: TokenizerMeasures
    features: FeatureExtractor | None

    def __str__(self) -> str:
        findings = self.findings()
        widths = [max(len(finding[column]) for finding in findings) for column in range(2)]
        return "\n".join(f"{name:<{widths[0]}}  {value:>{widths[1]}}  {meaning}" for name, value, meaning in findings)

    def findings(self) -> list[Fact]:
        """Return the figures that matter most, as text."""
        codes, frechet = self.measures.codes, self.measures.frechet
        found = [
            Fact("PSNR", f"{self.measures.psnr_db.mean():.2f} dB", "mean over the images, higher is better"),
            Fact("SSIM", f"{self.measures.ssim.mean():.4f}", "structural similarity, 1 for equal images"),
        ]
        if frechet and self.features:
            meaning = (
                f"{self.features.description}, images against reconstructions; two halves of the images are "
                f"{frechet.real_halves:.4g} apart"
            )
            found.append(Fact(self.features.distance, f"{frechet.reconstruction:.4g}", meaning))
        found += [
            Fact("Entropy of a bit", f"{codes.bit_entropies.mean():.4f}", "mean in bits, 1 for a fair coin"),
            Fact("Bit correlation", f"{codes.mean_correlation:.4f}", "mean |phi| of pairs, 0 for independent bits"),
            Fact("Codes used", f"{100 * codes.utilization:.3g} %", f"{codes.used:,} of {codes.possible:,}"),
            Fact(
                "Entropy of a code",
                f"{codes.entropy_bits:.2f} bits",
                f"of {len(codes.ones)}, found in {codes.codes:,} codes; perplexity {codes.perplexity:,.0f}",
            ),
        ]
        return found

    def numbers(self) -> dict[str, Any]:
        """Return everything that was measured, as JSON knows it."""
        codes, frechet = self.measures.codes, self.measures.frechet
        return {
            "psnr_db": _summary(self.measures.psnr_db),
            "ssim": _summary(self.measures.ssim),
            "frechet_distance": frechet and self.features and {"name": self.features.distance, **frechet._asdict()},
            "codes": {
                "counted": codes.codes,
                "possible": codes.possible,
                "used": codes.used,
                "utilization": codes.utilization,
                "entropy_bits": codes.entropy_bits,
                "perplexity": codes.perplexity,
            },
            "bits": {
                "mean_entropy_bits": codes.bit_entropies.mean().item(),
                "mean_absolute_correlation": codes.mean_correlation,
                "entropy_bits": codes.bit_entropies.tolist(),
                "share_of_ones": codes.ones.tolist(),
                "correlation": codes.correlation.tolist(),
            },
        }


def report_tokenizer(
    tokenizer: Path,
    images: Path,
    out: Path,
    *,
    split: Split,
    count: int,
    features: FeatureName | Literal["none"],
    inception_weights: Path | None,
    batch_size: int,
) -> TokenizerReport:
    """Measure the tokenizer of a folder on `count` images, or on all if there are fewer, and write the report to `out`.

    Raises an ElmError if the tokenizer, the images or the features' weights cannot be used, or if `out` holds anything
    but an earlier report.
    """
    _check_out(out)
    device = choose_device("auto")
    model, fingerprint = load_tokenizer(tokenizer, device), tokenizer_fingerprint(tokenizer)
    extractor = None if features == "none" else load_features(features, inception_weights, device)
    found = open_images(images, split, model.config.image_size)
    count = min(count, len(found))
    if count < FEWEST_IMAGES:
        raise EvaluationError(f"{images}: a report needs {FEWEST_IMAGES} images or more; there are {count} to measure")
    batches = _load_batches(found, np.arange(count) * len(found) // count, batch_size, device)  # even over the classes
    total = -(-count // batch_size)
    shown = track(batches, "measuring", total=total, transient=True, disable=not sys.stdout.isatty())
    settings = {
        "tokenizer": str(tokenizer),
        "tokenizer_fingerprint": fingerprint,
        "tokenizer_architecture": architecture(model.config),
        "images": str(images),
        "split": split,
        "count": count,
        "available": len(found),
        "features": features,
        "features_sha256": extractor and extractor.weights_sha256,
        "batch_size": batch_size,
        "device": str(device),
        "torch": torch.__version__,
    }
    report = TokenizerReport(settings, measure_tokenizer(model, shown, count, extractor), extractor)
    _write(report, out)
    return report


def _check_out(out: Path) -> None:
    """Raise EvaluationError unless `out` is new or holds nothing but a report."""
    if out.exists() and not out.is_dir():
        raise EvaluationError(f"{out}: this is a file, but the report is a folder; name another place with --out")
    others = sorted({path.name for path in out.glob("*")} - {JSON_FILE, PAGE_FILE}) if out.is_dir() else []
    if others:
        raise EvaluationError(
            f"{out}: there are other files in this folder, such as {others[0]}; name a folder of the report's own with "
            "--out"
        )


def _load_batches(
    images: ImageSet, chosen: NDArray[np.int64], batch_size: int, device: torch.device
) -> Iterator[Tensor]:
    """Yield the chosen images, cropped to the size of `images`, as (batch, 3, H, W) in [0, 1] on `device`."""

    for batch in read_batches(images, chosen, batch_size):
        yield torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).contiguous().float() / 255


def _write(report: TokenizerReport, out: Path) -> None:
    replace_text(out / JSON_FILE, json.dumps({"settings": report.settings, **report.numbers()}, indent=1) + "\n")
    measures = report.measures
    page = render_tokenizer_page(
        f"{report.settings['tokenizer']} on {report.settings['count']:,} {report.settings['split']} images of "
        f"{report.settings['images']}",
        report.findings(),
        {"Images and their reconstructions": measures.typical, "Those that came back worst": measures.worst},
        draw_plots(measures),
        report.settings,
    )
    replace_text(out / PAGE_FILE, page)


def _summary(values: Tensor) -> dict[str, float]:
    low, median, high = values.double().quantile(torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)).tolist()
    return {"mean": values.mean().item(), "percentile_5": low, "median": median, "percentile_95": high}
