"""What each layer asks of a GPU: bytes that its forward pass keeps for the backward pass, and seconds.

The bytes are those that autograd saves of the layers in `elm_dist.model`, tensor by tensor, with fused attention and
PyTorch's fused norm; a test counts them in the layers themselves. Needs no torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from elm_dist.config import Config, ModelConfig
from elm_dist.model.cost import layer_forward_flops, layer_parameters
from elm_dist.planning.hardware import Gpu

# How often what a layer writes in its forward pass crosses the memory bus, in both passes together: written, read,
# read again, and its gradient likewise. Fitted with `Gpu.efficiency` to llm-foundry's published runs on 8 GPUs.
TRAFFIC = 7.0
# Bytes of one logit: what the forward pass writes (16 bits, fp32, log-probabilities), and what the backward pass of the
# loss has at a time (log-probabilities, their gradient, the gradient of the logits; all fp32).
LOGIT_WRITTEN, LOGIT_HELD = 10, 12
# Kernels of a block's forward pass, and of each half of its backward pass, as PyTorch calls them one by one (counted
# with a dispatch mode), and the seconds that a call takes on the CPU: usual, not measured here. A GPU that computes
# faster than it is called waits.
FORWARD_CALLS, HALF_BACKWARD_CALLS = 40, 30
CALL_SECONDS = 6e-6


@dataclass(frozen=True)
class LayerWork:
    """One layer and one micro-batch."""

    parameters: int
    kept: float  # bytes from the forward pass until the backward pass
    recomputed: float  # bytes that the backward pass makes again, and holds for as long as it is in this layer
    forward: float  # seconds
    input_gradient: float
    weight_gradient: float


def element_bytes(precision: str) -> int:
    """Return the bytes of a number of the stream and of the weights that compute."""
    return 4 if precision == "fp32" else 2


def block_activations(model: ModelConfig, element: int) -> int:
    """Return the bytes that a block keeps for each position.

    Both norms keep their fp32 input; attention its input, queries, keys and values together, the rotated queries and
    keys, and its result; SwiGLU its input, gate, silu(gate), up and their product. Besides these, a number for each
    head and norm, and a mask of bytes for each dropout. What is done to queries and keys keeps them in fp32; what the
    class modulates, each branch's normed input and its result.
    """
    h, f, kv = model.hidden_size, model.feed_forward_size, model.key_value_size
    norms = 2 * (4 * h + 4)
    rotated = 0 if model.position_encoding == "learned" else h + kv
    attention = element * (h + (h + 2 * kv) + rotated + h) + 4 * model.num_heads
    if model.qk_norm or model.attention == "cosine":
        attention += 4 * (h + kv)
    adaptive = 4 * element * h if model.conditioning == "adaln" else 0
    feed_forward = element * (h + 4 * f)
    return norms + attention + adaptive + feed_forward + (2 * h if model.dropout else 0)


def layer_activations(model: ModelConfig, element: int) -> list[int]:
    """Return the bytes that each layer keeps for each position: the embedding, the blocks, the head without loss."""
    h, m = model.hidden_size, model.subtokens
    embedding = (element * m * h if m > 1 else 0) + (h if model.dropout else 0) + 8 * m
    head = 4 * h + 4 + element * h
    if model.subtoken_prediction == "sequential":  # what is mixed, SwiGLU's own, its result; the codes' norm
        head += 6 * m * element * h + (m - 1) * (4 * h + 4)
    if model.modelling == "masked":  # what GELU and the layer norm get
        head += element * h + 4 * h + 8
    return [embedding, *[block_activations(model, element)] * model.num_layers, head]


def plan_layers(config: Config, gpu: Gpu) -> list[LayerWork]:
    """Return the work of each layer in order, for one micro-batch of `config.schedule.micro_batch_size` images."""
    return list(_layers(config, gpu))


def _layers(config: Config, gpu: Gpu) -> Iterator[LayerWork]:
    model, parallel, grid = config.model, config.parallel, config.tokenizer.grid
    images, element = config.schedule.micro_batch_size, element_bytes(parallel.precision)
    positions = images * (grid.cells + (model.modelling == "masked"))  # which has the class beside all codes
    speed, every = gpu.peaks[parallel.precision] * gpu.efficiency, parallel.checkpoint_every_blocks
    flops, parameters = layer_forward_flops(model, grid), layer_parameters(model, grid)
    for index, activations in enumerate(layer_activations(model, element)):
        is_head = index == model.num_layers + 1
        written = activations + (LOGIT_WRITTEN * model.subtokens * model.vocabulary if is_head else 0)
        product = images * flops[index] / speed
        traffic = positions * written * TRAFFIC / gpu.bandwidth
        is_block = 0 < index <= model.num_layers
        calls = CALL_SECONDS if is_block else 0.0
        forward = max(product + traffic / 3, FORWARD_CALLS * calls)
        is_recomputed = every > 0 and is_block and (index - 1) % every == 0
        yield LayerWork(
            parameters=parameters[index],
            kept=positions * (element * model.hidden_size if is_recomputed else activations),
            recomputed=positions * activations if is_recomputed else 0.0,
            forward=forward,
            input_gradient=max(product + traffic * 2 / 3, HALF_BACKWARD_CALLS * calls) + is_recomputed * forward,
            weight_gradient=max(product, HALF_BACKWARD_CALLS * calls),
        )


def loss_bytes(config: Config) -> float:
    """Return what the loss of one micro-batch holds at a time."""
    model, positions = config.model, config.tokenizer.positions
    return config.schedule.micro_batch_size * positions * model.subtokens * model.vocabulary * LOGIT_HELD
