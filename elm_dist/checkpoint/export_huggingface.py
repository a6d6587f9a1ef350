"""What a folder for Hugging Face transformers has beside the weights, and the proof that it computes what we do.

    config.json, generation_config.json          the architecture, how to draw from it, and which code to load
    configuration_elm.py, modeling_elm.py        that code, which needs no elm-dist; a plain Llama needs none
    tokenizer/                                   makes pictures of codes; elm-dist reads it

Needs transformers. Knows nothing of how the weights come to be there.
"""

import logging
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from elm_dist.checkpoint import huggingface
from elm_dist.checkpoint.formats import Target
from elm_dist.checkpoint.huggingface.configuration_elm import ELMConfig
from elm_dist.checkpoint.huggingface.modeling_elm import ELMForCausalLM
from elm_dist.checkpoint.model import Weights, load_model
from elm_dist.checkpoint.store import Checkpoint
from elm_dist.checkpoint.tokenizer import CONFIG_FILE, WEIGHTS_FILE, check_tokenizer_fits, has_tokenizer
from elm_dist.codes.packing import unpack_subtokens
from elm_dist.codes.scan import scan_order
from elm_dist.codes.subtokens import CodeShape
from elm_dist.config import Config, Grid, ModelConfig, SamplingConfig, TokenizerConfig
from elm_dist.errors import CheckpointError
from elm_dist.model.elm import ELM, code_shape
from elm_dist.model.rotary import BASE

log = logging.getLogger(__name__)

CODE = ("configuration_elm.py", "modeling_elm.py")  # which travel with the weights
TOKENIZER = "tokenizer"  # the folder's name
EPSILON = 1e-5  # of our RMS norms
TOLERANCE = 1e-4  # of the largest logit: more than the order of sums does in fp32


def build_config(model: ModelConfig, grid: Grid, sampling: SamplingConfig, dtype: str = "fp32") -> ELMConfig:
    """Return the architecture as transformers knows it; `dtype`, "fp32" or "bf16", is that of the weights."""
    name = ELMForCausalLM.__name__
    order, dimensions = scan_order(model.scan, grid).tolist(), {"rope_1d": 2, "rope_2d": 1}[model.position_encoding]
    squeeze = model.rope_grid / max(grid) if model.rope_grid else 1.0  # of a row and of a column
    config = ELMConfig(
        **_sizes(model, grid, dtype),
        vocab_size=model.vocabulary,
        grid=tuple(grid),
        scan=order if order != sorted(order) else None,
        position_encoding=model.position_encoding,
        position_scale=squeeze**dimensions,
        qk_norm=model.qk_norm,
        subtokens=model.subtokens,
        num_classes=model.num_classes,
        cfg_scale=sampling.cfg_scale,
        cfg_schedule=sampling.cfg_schedule,
        cfg_interval=sampling.cfg_interval,
        architectures=[name],
    )
    config.auto_map = {"AutoConfig": "configuration_elm.ELMConfig"}
    config.auto_map |= {auto: f"modeling_elm.{name}" for auto in ("AutoModel", "AutoModelForCausalLM")}
    return config


def build_llama_config(model: ModelConfig, grid: Grid, dtype: str = "fp32") -> LlamaConfig:
    """Return the architecture of a plain Llama, whose ids are the codes, then the classes, the last of them null."""
    return LlamaConfig(
        **_sizes(model, grid, dtype),
        vocab_size=model.vocabulary + model.num_classes + 1,
        rope_parameters={"rope_type": "default", "rope_theta": BASE},
        rms_norm_eps=EPSILON,
        bos_token_id=None,
        eos_token_id=None,  # every image has as many codes: none ends it
        architectures=[LlamaForCausalLM.__name__],
    )


def _sizes(model: ModelConfig, grid: Grid, dtype: str) -> dict[str, Any]:
    return {
        "hidden_size": model.hidden_size,
        "intermediate_size": model.feed_forward_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.key_value_heads or model.num_heads,
        "max_position_embeddings": grid.cells + 1,  # the class and the codes, the last of which is never an input
        "dtype": {"fp32": "float32", "bf16": "bfloat16"}[dtype],
    }


def build_generation_config(grid: Grid, sampling: SamplingConfig) -> GenerationConfig:
    """Return how codes are drawn, but for the guidance, which is the architecture's."""
    return GenerationConfig(
        max_new_tokens=grid.cells,
        do_sample=True,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
    )


def build_llama_generation_config(model: ModelConfig, grid: Grid, sampling: SamplingConfig) -> GenerationConfig:
    """Return how a plain Llama draws codes, and never the id of a class, all of which have logits of zero."""
    config = build_generation_config(grid, sampling)
    config.suppress_tokens = list(range(model.vocabulary, model.vocabulary + model.num_classes + 1))
    return config


def complete_folder(folder: Path, config: Config, target: Target, dtype: str) -> None:
    """Write everything but the weights and the model card.

    Raises TokenizerError for a tokenizer of another kind than the run's; without any there will be no pictures.
    """
    model, grid, sampling = config.model, config.tokenizer.grid, config.sampling
    if target == "llama":
        build_llama_config(model, grid, dtype).save_pretrained(folder)
        build_llama_generation_config(model, grid, sampling).save_pretrained(folder)
    else:
        build_config(model, grid, sampling, dtype).save_pretrained(folder)
        build_generation_config(grid, sampling).save_pretrained(folder)
        for name in CODE:
            (folder / name).write_text(files(huggingface).joinpath(name).read_text(encoding="utf-8"), encoding="utf-8")
    _copy_tokenizer(folder, config.tokenizer)


def _copy_tokenizer(folder: Path, tokenizer: TokenizerConfig) -> None:
    directory = tokenizer.directory
    if not has_tokenizer(directory):
        log.warning("%s: there is no tokenizer to export; without it the codes make no pictures", directory)
        return
    check_tokenizer_fits(directory, tokenizer)
    (folder / TOKENIZER).mkdir()
    for name in (CONFIG_FILE, WEIGHTS_FILE):  # not its reports
        shutil.copyfile(directory / name, folder / TOKENIZER / name)


def measure_difference(
    folder: Path, target: Target, checkpoint: Checkpoint, config: Config, weights: Weights, dtype: torch.dtype
) -> float:
    """Return the largest difference of a logit of the model in `folder` from ours, in fp32, over all positions.

    Both read a class and the null class with codes that are all alike likely. Both models are in memory. Raises
    CheckpointError where they do not agree.
    """
    model = load_model(checkpoint, config, weights).to(dtype).float()
    kind = LlamaForCausalLM if target == "llama" else ELMForCausalLM
    exported = kind.from_pretrained(folder, dtype=torch.float32)
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
    model: ELM, exported: LlamaForCausalLM, shape: CodeShape, packed: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return our logits and those of the exported model, each (batch, positions, subtokens, vocabulary).

    They are of packed codes (batch, packed_bytes) and labels (batch,).
    """
    codes = unpack_subtokens(packed, shape)[:, :-1]
    classes = (shape.vocabulary + labels).view(-1, 1, 1).expand(-1, 1, shape.subtokens)
    ids = torch.cat([classes, codes], dim=1)
    ours = model((packed, labels))
    logits = exported(input_ids=ids if shape.subtokens > 1 else ids.squeeze(2)).logits
    return ours, logits[..., : shape.vocabulary].view(ours.shape)  # a plain Llama has some for classes, too
