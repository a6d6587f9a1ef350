"""Imports the weights of a published transformer: they become the checkpoint of step 0 of a run.

The run can be sampled, evaluated, exported, and be what another begins with (`run.init_from`). The tokenizers' weights
are imported by `official.py`. Knows nothing of who published what.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from elm_dist.checkpoint.latest import CHECKPOINTS
from elm_dist.checkpoint.layouts import Tensors
from elm_dist.checkpoint.model_layouts import meta_tensors, official_layout, official_names
from elm_dist.checkpoint.published import Published
from elm_dist.checkpoint.published_model import AGAIN, derive_model, is_unused
from elm_dist.checkpoint.run_folder import CONFIG, check_is_new
from elm_dist.checkpoint.store import CheckpointStore
from elm_dist.checkpoint.tokenizer import describe_odd_tensors, load_tokenizer_config
from elm_dist.config import Config, DataConfig, ModelConfig, MonitoringConfig, RunConfig, TokenizerConfig
from elm_dist.config_file import dump_config
from elm_dist.config_rules.every_rule import broken_rules
from elm_dist.errors import CheckpointError
from elm_dist.files import replace_text
from elm_dist.model.cost import count_parameters

log = logging.getLogger(__name__)


def import_model(
    published: Published, run: Path, tokenizer: Path | None, shards: Path | None = None, heads: int | None = None
) -> Config:
    """Write the weights of a transformer into the new run `run`, and return its configuration.

    `tokenizer` is the folder of what makes its codes, `shards` that of codes to measure it on. The averaged weights
    become the run's averages; the raw ones, or where there are none the averaged again, its weights. Raises
    CheckpointError where `run` holds anything, where tensors are missing, left over, of another shape or no
    floating-point numbers, and for a tokenizer of other codes; TokenizerError where there is none.
    """
    check_is_new(run)
    model = derive_model(published.path, published.averaged, heads)
    images = DataConfig(shards=shards or Path("shards"))  # which the file does not tell; one can name them later
    config = _describe_run(published.path, run, _load_tokenizer(published.path, model, tokenizer), images, model)
    averaged = _rename(published, published.averaged, config)
    raw = averaged if published.raw is None else _rename(published, published.raw, config)
    facts = {"imported_from": published.path.name, "samples_seen": 0}
    with CheckpointStore(run / CHECKPOINTS, config.checkpoint) as store:
        store.save(_Imported({"weights": raw, "ema": averaged}), 0, facts)
    replace_text(run / CONFIG, dump_config(config))
    return config


def _load_tokenizer(path: Path, model: ModelConfig, folder: Path | None) -> TokenizerConfig:
    bits = model.subtokens * model.subtoken_bits
    codes = f"codes of {model.subtokens} x {model.subtoken_bits} = {bits} bits"
    if folder is None:
        raise CheckpointError(
            f"{path}: this is a transformer for {codes}; say which tokenizer's they are with --tokenizer FOLDER, "
            "imported or trained before"
        )
    tokenizer = load_tokenizer_config(folder)
    if tokenizer.code_bits != bits:
        raise CheckpointError(
            f"{path}: this is a transformer for {codes}, and the tokenizer in {folder} makes codes of "
            f"{tokenizer.code_bits}; give the one that it was trained with"
        )
    return tokenizer


def _describe_run(path: Path, run: Path, tokenizer: TokenizerConfig, data: DataConfig, model: ModelConfig) -> Config:
    """Return a complete configuration; what weights do not tell has its default."""
    shown = tuple(label for label in MonitoringConfig().sample_classes if label < model.num_classes)
    config = Config(
        run=RunConfig(directory=run),
        tokenizer=tokenizer,
        data=data,
        model=model,
        monitoring=MonitoringConfig(sample_classes=shown),
    )
    for where, problem in broken_rules(dict(config)):
        raise CheckpointError(f"{path}: it cannot be a run: {where}: {problem}")
    return config


def _rename(published: Published, tensors: Tensors, config: Config) -> Tensors:
    """Return tensors of a file in fp32 under our names and in our shapes; each must be accounted for."""
    model, grid = config.model, config.tokenizer.grid
    ours, names = meta_tensors(model, grid), official_names(model)
    expected = {theirs: make(ours.__getitem__) for theirs, make in official_layout(model, grid).items()}
    unused = [name for name in tensors if is_unused(model, name)]
    found = {name: tensor for name, tensor in tensors.items() if name not in unused}
    if odd := describe_odd_tensors(found, {theirs: expected[theirs] for theirs in names.values()}):
        raise CheckpointError(f"{published.path}: its tensors are not those of ELM's transformer: {odd}; {AGAIN}")
    if unused:
        log.info("%s: left out %s, which the model does not use", published.path, ", ".join(unused))
    weights = published.floats(tensors, names)
    assert sum(tensor.numel() for tensor in weights.values()) == count_parameters(model, grid)
    return {name: tensor.view(ours[name].shape) for name, tensor in weights.items()}


@dataclass(frozen=True)
class _Imported:
    """What a checkpoint store saves of an engine, here whole tensors in one process, which is its own layout."""

    weights: dict[str, Tensors]  # by kind
    rank: int = 0
    world_size: int = 1
    replica: int = 0
    replicas: int = 1

    def __str__(self) -> str:
        return "an import"

    @property
    def state(self) -> "_Imported":
        return self

    @property
    def layout(self) -> "_Imported":
        return self

    @property
    def kinds(self) -> list[str]:
        return list(self.weights)

    @property
    def names(self) -> list[str]:
        return list(self.weights["weights"])

    def shape(self, name: str) -> torch.Size:
        return self.weights["weights"][name].shape

    def is_replicated(self, name: str) -> bool:
        return True

    def piece(self, kind: str, name: str) -> tuple[int, Tensor]:
        return 0, self.weights[kind][name].view(-1)

    def scatter(self, kind: str, name: str, read: Callable[[int, int], Tensor]) -> None:
        raise AssertionError("an import is not loaded into")

    def barrier(self) -> None:
        """There is no other process."""

    def agree(self, here: bool) -> bool:
        return here
