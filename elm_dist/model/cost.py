"""What a model costs: parameters and floating-point operations, by arithmetic. Needs no torch."""

from elm_dist.config import ModelConfig

# Dense bf16 peaks, FLOP/s, by a part of the device's name (vendors' data sheets).
PEAK_FLOPS = {"A100": 312e12, "A800": 312e12, "H100": 989e12, "H200": 989e12, "H800": 989e12, "B200": 2250e12}


def count_parameters(model: ModelConfig) -> int:
    """Return the number of parameters of the whole model."""
    return sum(layer_parameters(model))


def layer_parameters(model: ModelConfig) -> list[int]:
    """Return the parameters of each layer in order: the embedding, the blocks, the head."""
    h, m, vocabulary = model.hidden_size, model.subtokens, model.vocabulary
    embedding = (model.num_classes + 1) * h + m * vocabulary * h + (m * h * h if m > 1 else 0)
    block = 4 * h * h + 3 * h * model.feed_forward_size + 2 * h
    head = h + m * vocabulary * h
    return [embedding, *[block] * model.num_layers, head]


def layer_forward_flops(model: ModelConfig, grid: int) -> list[int]:
    """Return the operations of each layer's forward pass for one image; a multiply-add counts as two.

    Attention counts the full square of positions, as the published accounts of MFU do; table look-ups count nothing.
    """
    h, m, positions = model.hidden_size, model.subtokens, grid**2
    embedding = 2 * (positions - 1) * m * h * h if m > 1 else 0  # the last code is no input
    block = 2 * positions * (4 * h * h + 3 * h * model.feed_forward_size) + 4 * positions**2 * h
    head = 2 * positions * m * model.vocabulary * h
    return [embedding, *[block] * model.num_layers, head]


def training_flops_per_image(model: ModelConfig, grid: int) -> int:
    """Return the operations of one forward and backward pass for one image: the backward costs two forwards."""
    return 3 * sum(layer_forward_flops(model, grid))


def device_peak_flops(device_name: str) -> float | None:
    """Return the dense bf16 peak of a GPU by its name, as its driver gives it; None where it is not known."""
    return next((peak for part, peak in PEAK_FLOPS.items() if part in device_name), None)
