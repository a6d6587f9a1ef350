"""Begins a new run with the weights of another (`run.init_from`): to fine-tune, at another size or on other images.

Weights alone: the optimizer, the learning rate and the step begin anew, and averages begin with the weights. Every rank
reads what it holds, so that the layouts need not be the same.
"""

import logging
from functools import partial
from pathlib import Path

import torch

from elm_dist.checkpoint.convert import KINDS
from elm_dist.checkpoint.latest import CHECKPOINTS
from elm_dist.checkpoint.model_layouts import meta_tensors
from elm_dist.checkpoint.run_folder import is_run, load_run_config
from elm_dist.checkpoint.store import Checkpoint, newest_good
from elm_dist.checkpoint.tokenizer import describe_odd_tensors
from elm_dist.config import Config, ModelConfig
from elm_dist.errors import CheckpointError
from elm_dist.parallel.engine import Engine

log = logging.getLogger(__name__)

# What of `model:` may change: it makes other noise in training, or places that are computed.
FREE = ("dropout", "drop_path", "rope_grid")


def lay_initial_weights(engine: Engine, config: Config) -> None:
    """Lay the weights that `run.init_from` names over the engine of a new run; none named leaves it as it is.

    Every rank calls this alike. Raises CheckpointError for a folder that is no run and no checkpoint of one, for
    damaged files, and for weights of another model.
    """
    source = config.run.init_from
    if source is None:
        return
    run = source if is_run(source) else source.resolve().parent.parent  # of runs/other/checkpoints/step_00010000
    if not is_run(run):
        raise CheckpointError(
            f"run.init_from: {source} is neither a run, with a config.yaml, nor the folder of one of its checkpoints; "
            "name one, or set run.init_from=null to begin with weights that are drawn"
        )
    _check_same_model(source, load_run_config(run).model, config.model)
    kind = KINDS[config.run.init_weights]
    checkpoint = _choose(engine, source, is_whole_run=run == source, kind=kind)
    _check_tensors(source, checkpoint, config)
    for name in engine.state.names:
        read = partial(checkpoint.read_span, kind, name, engine.state.shape(name))
        for ours in ("weights", "ema"):
            engine.state.scatter(ours, name, read)
    log.info("begins with the %s weights of step %s of %s", config.run.init_weights, f"{checkpoint.step:,}", run)


def _choose(engine: Engine, source: Path, is_whole_run: bool, kind: str) -> Checkpoint:
    """Return the newest good checkpoint of a run, or the one that is named; ranks share the checking of its files."""
    rank, world_size = engine.layout.rank, engine.layout.world_size

    def share(files: list[str]) -> list[str]:
        return [file for file in files if file.startswith(f"{kind}-")][rank::world_size]

    if is_whole_run:
        checkpoint = newest_good(source / CHECKPOINTS, engine.agree, share)
        if checkpoint is None:
            raise CheckpointError(f"run.init_from: {source} has no checkpoint yet; train it further, or name another")
        return checkpoint
    checkpoint, damage = Checkpoint(source), None
    try:
        checkpoint.verify(share(list(checkpoint.files)))
    except CheckpointError as error:
        damage = error
    if not engine.agree(damage is None):
        raise damage or CheckpointError(f"run.init_from: {source} is damaged, as another rank found; name another")
    return checkpoint


def _check_same_model(source: Path, there: ModelConfig, here: ModelConfig) -> None:
    """Raise CheckpointError for settings that say what the weights mean, or that no weights can be converted for."""
    theirs, ours = (model.model_dump(exclude=set(FREE)) for model in (there, here))
    if odd := [name for name in ours if ours[name] != theirs[name]]:
        listed = ", ".join(f"model.{name} is {theirs[name]} there and {ours[name]} here" for name in odd)
        raise CheckpointError(
            f"run.init_from: {source} is another model: {listed}; make them equal, or begin with weights that are "
            "drawn, with run.init_from=null"
        )


def _check_tensors(source: Path, checkpoint: Checkpoint, config: Config) -> None:
    expected = meta_tensors(config.model, config.tokenizer.grid)
    found = {name: torch.empty(shape, device="meta") for name, shape in checkpoint.shapes.items()}
    positions = "embedding.positions.weight"
    if positions in found and positions in expected and found[positions].shape != expected[positions].shape:
        raise CheckpointError(
            f"run.init_from: {source} has {len(found[positions])} learned positions, and this run needs "
            f"{len(expected[positions])}; learned ones cannot grow: keep tokenizer.image_size, or begin with a run of "
            "model.position_encoding=rope_2d"
        )
    if odd := describe_odd_tensors(found, expected):
        raise CheckpointError(f"run.init_from: the tensors of {source} are not those of this run's model: {odd}")
