"""What a folder for Hugging Face transformers has beside the weights, and the proof that it computes what we do.

    config.json, generation_config.json          the architecture, how to draw from it, and which code to load
    configuration_elm.py, modeling_elm.py        that code, which needs no elm-dist
    tokenizer/                                   makes pictures of codes; elm-dist reads it

Needs transformers. Knows nothing of how the weights come to be there.
"""

import logging
import shutil
from importlib.resources import files
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig

from elm_dist.checkpoint import huggingface
from elm_dist.checkpoint.huggingface.configuration_elm import ELMConfig
from elm_dist.checkpoint.huggingface.modeling_elm import ELMForCausalLM
from elm_dist.checkpoint.model import Weights, load_model
from elm_dist.checkpoint.store import Checkpoint
from elm_dist.checkpoint.tokenizer import CONFIG_FILE, WEIGHTS_FILE, check_tokenizer_fits, has_tokenizer
from elm_dist.codes.packing import unpack_subtokens
from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import Config, Grid, ModelConfig, SamplingConfig
from elm_dist.errors import CheckpointError
from elm_dist.model.elm import ELM, code_shape

log = logging.getLogger(__name__)

CODE = ("configuration_elm.py", "modeling_elm.py")  # which travel with the weights
TOKENIZER = "tokenizer"  # the folder's name
TOLERANCE = 1e-4  # of the largest logit: more than the order of sums does in fp32


def build_config(model: ModelConfig, grid: Grid, sampling: SamplingConfig, dtype: str = "fp32") -> ELMConfig:
    """Return the architecture as transformers knows it; `dtype`, "fp32" or "bf16", is that of the weights."""
    name = ELMForCausalLM.__name__
    config = ELMConfig(
        vocab_size=model.vocabulary,
        hidden_size=model.hidden_size,
        intermediate_size=model.feed_forward_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        max_position_embeddings=grid.cells + 1,  # the class and the codes, the last of which is never an input
        grid=grid.rows,
        subtokens=model.subtokens,
        num_classes=model.num_classes,
        cfg_scale=sampling.cfg_scale,
        cfg_schedule=sampling.cfg_schedule,
        cfg_interval=sampling.cfg_interval,
        architectures=[name],
        dtype={"fp32": "float32", "bf16": "bfloat16"}[dtype],
    )
    config.auto_map = {"AutoConfig": "configuration_elm.ELMConfig"}
    config.auto_map |= {auto: f"modeling_elm.{name}" for auto in ("AutoModel", "AutoModelForCausalLM")}
    return config


def build_generation_config(grid: Grid, sampling: SamplingConfig) -> GenerationConfig:
    """Return how codes are drawn, but for the guidance, which is the architecture's."""
    return GenerationConfig(
        max_new_tokens=grid.cells,
        do_sample=True,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
    )


def complete_folder(folder: Path, config: Config, dtype: str) -> None:
    """Write everything but the weights and the model card.

    Raises TokenizerError for a tokenizer of another kind than the run's; without any there will be no pictures.
    """
    build_config(config.model, config.tokenizer.grid, config.sampling, dtype).save_pretrained(folder)
    build_generation_config(config.tokenizer.grid, config.sampling).save_pretrained(folder)
    for name in CODE:
        (folder / name).write_text(files(huggingface).joinpath(name).read_text(encoding="utf-8"), encoding="utf-8")
    directory = config.tokenizer.directory
    if not has_tokenizer(directory):
        log.warning("%s: there is no tokenizer to export; without it the codes make no pictures", directory)
        return
    check_tokenizer_fits(directory, config.tokenizer)
    (folder / TOKENIZER).mkdir()
    for name in (CONFIG_FILE, WEIGHTS_FILE):  # not its reports
        shutil.copyfile(directory / name, folder / TOKENIZER / name)


def measure_difference(
    folder: Path, checkpoint: Checkpoint, config: Config, weights: Weights, dtype: torch.dtype
) -> float:
    """Return the largest difference of a logit of the model in `folder` from ours, in fp32, over all positions.

    Both read a class and the null class with codes that are all alike likely. Both models are in memory. Raises
    CheckpointError where they do not agree.
    """
    model = load_model(checkpoint, config, weights).to(dtype).float()
    exported = ELMForCausalLM.from_pretrained(folder, dtype=torch.float32)
    shape, generator = code_shape(config.model, config.tokenizer.grid), torch.Generator().manual_seed(0)
    packed = torch.randint(256, (2, shape.packed_bytes), dtype=torch.uint8, generator=generator)
    ours, theirs = logits_of_both(model, exported, shape, packed, torch.tensor([0, config.model.num_classes]))
    difference, largest = (theirs - ours).abs().max().item(), ours.abs().max().item()
    if not difference <= TOLERANCE * largest:  # neither for a difference that is no number
        raise CheckpointError(
            f"transformers {transformers.__version__} computes other logits than we do, off by up to {difference:.1e} "
            f"where they reach {largest:.1e}, so nothing was exported; `pip install -e '.[huggingface]'` brings "
            "the version that this was made for"
        )
    return difference


@torch.inference_mode()
def logits_of_both(
    model: ELM, exported: ELMForCausalLM, shape: CodeShape, packed: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return our logits and those of the exported model, each (batch, positions, subtokens, vocabulary).

    They are of packed codes (batch, packed_bytes) and labels (batch,).
    """
    codes = unpack_subtokens(packed, shape)[:, :-1]
    ids = torch.cat([exported.class_ids(labels), codes if shape.subtokens > 1 else codes.squeeze(2)], dim=1)
    ours = model((packed, labels))
    return ours, exported(input_ids=ids).logits.view(ours.shape)
