"""ELM for Hugging Face transformers: a Llama that draws the codes of images. It needs transformers and torch alone.

An image is a class, then the codes of a grid in the order of a scan, each of one or more sub-tokens. Three parts differ
from a Llama's: positions may be those of a grid, a position's input is made of all its sub-tokens, and each has a head.
Queries and keys may have norms. The rest, cache and attention kernels among it, is Llama's. The paper is "Elucidating
the design space of language models for image generation", https://arxiv.org/abs/2410.16257.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    LlamaForCausalLM,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from .configuration_elm import ELMConfig

BASE = 10_000.0  # of the rotary frequencies
# Each maps (scale S, step s from 0, number of steps N) to the guidance of that step; r = (s + 1) / N.
SCHEDULES: dict[str, Callable[[float, int, int], float]] = {
    "constant": lambda scale, step, steps: scale,
    "linear": lambda scale, step, steps: 1 + (scale - 1) * (step + 1) / steps,
    "cos": lambda scale, step, steps: 1 + (scale - 1) * math.cos(((step + 1) / steps - 1) * math.pi / 2),
    "log": lambda scale, step, steps: 1 + (scale - 1) * math.log(1 + (step + 1) / steps * (math.e - 1)),
    "square": lambda scale, step, steps: 1 + (scale - 1) * ((step + 1) / steps) ** 2,
    "square_root": lambda scale, step, steps: 1 + (scale - 1) * math.sqrt(step / steps),
}


class ELMRotaryEmbedding(nn.Module):
    """Rotary positions, in two dimensions: half of a head's channel pairs turn by a code's row, half by its column.

    Position p >= 1 is that of the code that comes as number p - 1. Position 0, the class, is in no grid: its cosines
    and sines are all zero, so that its query and key vanish, as they did in training. In one dimension all pairs turn
    by the position, that of the class too.
    """

    def __init__(self, config: ELMConfig) -> None:
        super().__init__()
        self.config = config
        self.head_size = config.hidden_size // config.num_attention_heads

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (batch, length, head_dim) in the precision of `x`, for position_ids (batch, length).

        Computed each time, in fp32: there is no buffer that a change of precision could round.
        """
        if self.config.position_encoding == "rope_1d":
            angles = self._angles(position_ids, self.head_size // 2).repeat(1, 1, 2)
            return angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        cells, columns, pairs = position_ids - 1, self.config.grid[1], self.head_size // 4
        if self.config.scan is not None:
            cells = torch.tensor(self.config.scan, device=x.device)[cells.clamp(0, len(self.config.scan) - 1)]
        row, column = (self._angles(place, pairs) for place in (cells // columns, cells % columns))
        angles = torch.cat([row, column, row, column], dim=-1)  # Llama pairs channel i with i + head_dim / 2
        in_grid = (position_ids > 0).unsqueeze(-1)
        return (angles.cos() * in_grid).to(x.dtype), (angles.sin() * in_grid).to(x.dtype)

    def _angles(self, places: Tensor, pairs: int) -> Tensor:
        """Return by how much so many channel pairs turn at places (batch, length): (batch, length, pairs)."""
        frequencies = BASE ** (-torch.arange(pairs, device=places.device, dtype=torch.float32) / pairs)
        return (places * self.config.position_scale).unsqueeze(-1) * frequencies


class ELMNormedProjection(nn.Linear):
    """Queries or keys, of which each head has the same RMS norm before it is rotated."""

    def __init__(self, config: ELMConfig, heads: int) -> None:
        self.head_size = config.hidden_size // config.num_attention_heads
        super().__init__(config.hidden_size, heads * self.head_size, bias=False)
        self.norm = LlamaRMSNorm(self.head_size, config.rms_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x).unflatten(-1, (-1, self.head_size))).flatten(-2)


class ELMEmbedding(nn.Embedding):
    """One table of all there is to embed: the values of each sub-token, one after the other, then the classes.

    The sub-tokens of a code are put side by side and projected to the hidden size; a lone one is taken as it is.
    """

    def __init__(self, config: ELMConfig) -> None:
        super().__init__(config.subtokens * config.vocab_size + config.num_classes + 1, config.hidden_size)
        self.config = config
        if config.subtokens > 1:
            self.project = nn.Linear(config.subtokens * config.hidden_size, config.hidden_size, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Embed ids (batch, length) or (batch, length, subtokens) as (batch, length, hidden_size).

        Those of a class, `vocab_size` or more, are the same in all places of a position.
        """
        if self.config.subtokens == 1:
            return super().forward(ids.flatten(1))
        vocabulary, slots = self.config.vocab_size, torch.arange(self.config.subtokens, device=ids.device)
        is_class = ids >= vocabulary
        vectors = super().forward(ids + vocabulary * torch.where(is_class, slots[-1], slots))
        return torch.where(is_class[..., :1], vectors[..., 0, :], self.project(vectors.flatten(2)))


class ELMHead(nn.Linear):
    """One head per sub-token, all of them in one matrix."""

    def __init__(self, config: ELMConfig) -> None:
        super().__init__(config.hidden_size, config.subtokens * config.vocab_size, bias=False)
        self.subtokens = config.subtokens

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, length, subtokens, vocab_size); without the third dimension of a lone sub-token."""
        logits = super().forward(x)
        return logits if self.subtokens == 1 else logits.unflatten(-1, (self.subtokens, -1))


def next_code_loss(logits: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
    """Return the mean cross-entropy of each sub-token, in nats: the loss for labels that are the input ids."""
    predicted = logits[:, :-1].float()  # of what comes next; nothing comes after the last
    return F.cross_entropy(predicted.reshape(-1, predicted.shape[-1]), labels[:, 1:].flatten())


class ELMForCausalLM(LlamaForCausalLM):
    """Gives the logits of the next code; `generate_codes` draws images' codes, which a tokenizer makes pictures of."""

    config_class = ELMConfig

    def __init__(self, config: ELMConfig) -> None:
        super().__init__(config)
        self.model.embed_tokens = ELMEmbedding(config)
        self.model.rotary_emb = ELMRotaryEmbedding(config)
        self.lm_head = ELMHead(config)
        heads = config.num_key_value_heads or config.num_attention_heads
        for layer in self.model.layers if config.qk_norm else ():
            layer.self_attn.q_proj = ELMNormedProjection(config, config.num_attention_heads)
            layer.self_attn.k_proj = ELMNormedProjection(config, heads)
        self.loss_function = next_code_loss
        self.post_init()

    def class_ids(self, labels: Sequence[int] | Tensor) -> Tensor:
        """Return input ids (batch, 1) or (batch, 1, subtokens) that begin an image of each class in `labels` (batch,).

        Class `num_classes` is the null class.
        """
        ids = self.config.vocab_size + torch.as_tensor(labels, device=self.device).unsqueeze(1)
        return ids if self.config.subtokens == 1 else ids.unsqueeze(2).repeat(1, 1, self.config.subtokens)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Draw from a model of one sub-token as from any language model, starting with `class_ids`.

        Guidance is `guidance_scale=4.0, negative_prompt_ids=model.class_ids([num_classes] * batch)`; it is constant.
        Codes come in the order of the scan.
        """
        if self.config.subtokens > 1:
            raise ValueError(
                f"this model draws {self.config.subtokens} sub-tokens at once, which `generate` cannot; use "
                "`generate_codes(labels)`"
            )
        return super().generate(*args, **kwargs)  # type: ignore[misc]  # it is typed for its mixin alone

    @torch.inference_mode()
    def generate_codes(
        self,
        labels: Sequence[int] | Tensor,
        *,
        cfg_scale: float | None = None,
        do_sample: bool = True,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the codes (batch, cells, subtokens), int64, of one image for each class in `labels` (batch,).

        They are in raster order, row by row, whatever the order in which they are drawn. Guidance is `cfg_scale` along
        the configuration's schedule, 1 is none; temperature, top_k and top_p are those of `generation_config`. Without
        `do_sample` each code is the likeliest.
        """
        scales = self._guidance(self.config.cfg_scale if cfg_scale is None else cfg_scale)
        starts = [torch.as_tensor(labels, device=self.device)]
        if any(scale != 1 for scale in scales):
            starts.append(torch.full_like(starts[0], self.config.num_classes))
        ids, cache, codes = self.class_ids(torch.cat(starts)), None, []
        for scale in scales:
            output = self(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            halves = output.logits.float().chunk(len(starts))
            logits = halves[-1] + (halves[0] - halves[-1]) * scale
            drawn = self._pick(logits.view(-1, self.config.vocab_size), do_sample, generator)
            codes.append(drawn.view(len(labels), 1, self.config.subtokens))
            ids = codes[-1].repeat(len(starts), 1, 1)
        in_order = torch.cat(codes, dim=1)
        return in_order if self.config.scan is None else in_order[:, torch.tensor(self.config.scan).argsort()]

    def _guidance(self, scale: float) -> list[float]:
        """Return how strong guidance is at each position; 1 is none."""
        steps, schedule = self.config.positions, SCHEDULES[self.config.cfg_schedule]
        first, end = (round(share * steps) for share in self.config.cfg_interval)
        return [schedule(scale, step, steps) if first <= step < end else 1.0 for step in range(steps)]

    def _pick(self, logits: Tensor, do_sample: bool, generator: torch.Generator | None) -> Tensor:
        """Return an entry for each row of `logits` (rows, vocabulary)."""
        if not do_sample:
            return logits.argmax(dim=-1)
        settings, no_ids = self.generation_config, torch.LongTensor()  # which these three do not look at
        warpers = LogitsProcessorList()
        if settings.temperature not in (None, 1.0):
            warpers.append(TemperatureLogitsWarper(settings.temperature))
        if settings.top_k:
            warpers.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p not in (None, 1.0):
            warpers.append(TopPLogitsWarper(settings.top_p))
        return warpers(no_ids, logits).softmax(dim=-1).multinomial(1, generator=generator)
