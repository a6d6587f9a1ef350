"""Writes a run with any model, as if it had been trained: its configuration, and a checkpoint of step 0."""

from pathlib import Path

from one_process import OneProcess, Tensors

from elm_dist.checkpoint.store import CheckpointStore
from elm_dist.config import CheckpointConfig, Config, ModelConfig
from elm_dist.config_file import dump_config, load_config
from elm_dist.model.elm import ELM

TINY = Path(__file__).parents[1] / "tiny_run.yaml"


def write_run(run: Path, elm: ELM, model: ModelConfig, image_size: object = 32) -> Config:
    """Write `elm` into the new run `run`, whose cells are of 8 pixels; return its configuration."""
    overrides = [f"run.directory={run}", f"tokenizer.directory={run.parent / 'tokenizer'}"]
    overrides += [f"tokenizer.image_size={image_size}", f"tokenizer.code_bits={model.subtokens * model.subtoken_bits}"]
    overrides += [f"model.{key}={value}" for key, value in model.model_dump().items()]
    config = load_config(TINY, [*overrides, "sampling.cfg_scale=2", "tokenizer_training.perceptual=none"])
    weights = elm.state_dict()
    tensors = Tensors(names=list(weights))
    tensors.values = {(kind, name): tensor for kind in tensors.kinds for name, tensor in weights.items()}
    with CheckpointStore(run / "checkpoints", CheckpointConfig()) as store:
        store.save(OneProcess(tensors), 0, {"data": "none", "samples_seen": 0})
    (run / "config.yaml").write_text(dump_config(config))
    return config
