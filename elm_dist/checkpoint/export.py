"""Writes a run for others to use: a folder with the weights, what they are, and a model card.

    safetensors   our own names, with all that is needed to build the model again
    huggingface   a folder that transformers loads, with the code that does it and the tokenizer that makes pictures
    llama         the same without code: a plain Llama, as which whatever reads Llamas takes it
    official      the names of the published weights, whose code then loads them

Which models each can hold is in `formats.py`. The folder appears when all of it is written and checked, or not at all.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from elm_dist.checkpoint.convert import KINDS, SHARD_BYTES, write_weights
from elm_dist.checkpoint.formats import Target, check_holds
from elm_dist.checkpoint.model import Weights
from elm_dist.checkpoint.model_card import Export
from elm_dist.checkpoint.model_layouts import (
    ModelLayout,
    huggingface_layout,
    llama_layout,
    official_layout,
    own_layout,
)
from elm_dist.checkpoint.run_folder import check_is_new, choose_checkpoint, load_run_config
from elm_dist.checkpoint.stream import DTYPES
from elm_dist.checkpoint.tokenizer import architecture
from elm_dist.config import Grid, ModelConfig, SamplingConfig
from elm_dist.errors import CheckpointError, SaveError
from elm_dist.files import replace_text, sync

LAYOUTS: dict[Target, Callable[[ModelConfig, Grid], ModelLayout]] = {
    "safetensors": own_layout,
    "huggingface": lambda model, grid: huggingface_layout(model),
    "llama": lambda model, grid: llama_layout(model),
    "official": official_layout,
}
TRANSFORMERS = ("huggingface", "llama")  # which need it to be written, and have a config.json of its own


def export_run(
    run: Path,
    out: Path,
    target: Target,
    *,
    sampling: SamplingConfig | None = None,
    weights: Weights = "ema",
    dtype: Literal["fp32", "bf16"] = "fp32",
    step: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Export:
    """Write the weights of the newest good checkpoint, or of `step`, into the new folder `out`.

    `sampling` is how to draw from it, by default as the run itself does. Raises CheckpointError for a folder that is no
    run or has no such checkpoint, where `out` holds anything, for a model that `target` has no place for, where
    transformers is needed and missing, and where it computes other logits than ours; SaveError where `out` cannot be
    written.
    """
    config = load_run_config(run)
    config = config.model_copy(update={"sampling": sampling or config.sampling})
    check_is_new(out)
    check_holds(target, config)
    if target in TRANSFORMERS:
        _check_transformers(target)
    kind = KINDS[weights]
    checkpoint = choose_checkpoint(run, step, lambda files: [file for file in files if file.startswith(f"{kind}-")])
    with _new_folder(out) as folder:
        layout = LAYOUTS[target](config.model, config.tokenizer.grid)
        parameters = write_weights(checkpoint, kind, config, layout, folder, DTYPES[dtype], shard_bytes)
        difference = None
        if target in TRANSFORMERS:
            from elm_dist.checkpoint.export_huggingface import complete_folder, measure_difference

            complete_folder(folder, config, target, dtype)
            difference = measure_difference(folder, target, checkpoint, config, weights, DTYPES[dtype])
        export = Export(run, out, target, config, checkpoint, weights, dtype, parameters, difference)
        if target not in TRANSFORMERS:
            replace_text(folder / "config.json", json.dumps(_facts(export), indent=2) + "\n")
        replace_text(folder / "README.md", export.card())
    return export


def _facts(export: Export) -> dict[str, Any]:
    """Return what one needs to know to build the model again, and what it was made of."""
    return {
        "model": export.config.model.model_dump(mode="json"),
        "tokenizer": architecture(export.config.tokenizer),
        "weights": export.weights,
        "dtype": export.dtype,
        "parameters": export.parameters,
        "step": export.checkpoint.step,
        **export.checkpoint.facts,
    }


def _check_transformers(target: Target) -> None:
    try:
        import elm_dist.checkpoint.export_huggingface  # noqa: F401
    except ImportError as error:
        raise CheckpointError(
            f"--to {target} needs transformers, to write what it reads and to check it ({error}); "
            "`pip install -e '.[huggingface]'`"
        ) from None


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `out` when the block ends without an error, and else is gone."""
    out = out.resolve()
    scratch = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        yield scratch
        for path in scratch.rglob("*"):
            sync(path)
        scratch.replace(out)
    except OSError as error:
        raise SaveError(
            f"{out} cannot be written ({error.strerror or error}); make room, or give a folder on another disk"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
