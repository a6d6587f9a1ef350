"""What a model costs: parameters and floating-point operations, by arithmetic. Needs no torch."""

from elm_dist.config import Grid, ModelConfig

# Dense bf16 peaks, FLOP/s, by a part of the device's name (vendors' data sheets).
PEAK_FLOPS = {"A100": 312e12, "A800": 312e12, "H100": 989e12, "H200": 989e12, "H800": 989e12, "B200": 2250e12}


def count_parameters(model: ModelConfig, grid: Grid) -> int:
    """Return the number of parameters of the whole model."""
    return sum(layer_parameters(model, grid))


def layer_parameters(model: ModelConfig, grid: Grid) -> list[int]:
    """Return the parameters of each layer in order: the embedding, the blocks, the head."""
    h, m, vocabulary = model.hidden_size, model.subtokens, model.vocabulary
    is_masked = model.modelling == "masked"
    embedding = (model.num_classes + 1) * h + m * (vocabulary + is_masked) * h + (m * h * h if m > 1 else 0)
    if model.position_encoding == "learned":
        embedding += (grid.cells + is_masked) * h
    vectors = 2 * h + (2 * model.head_size if model.qk_norm else 0)
    vectors += model.num_heads if model.attention == "cosine" else 0
    head = m * vocabulary * h if not is_masked else h * h + 3 * h + m * (vocabulary + 1)
    if model.subtoken_prediction == "sequential":
        head += (m - 1) * vocabulary * h + h + 3 * h * h  # tables, their norm, SwiGLU
    return [embedding, *[_block_matrices(model) + vectors] * model.num_layers, h + head]


def _block_matrices(model: ModelConfig) -> int:
    """Return the weights of a block's matrices: attention's, SwiGLU's, and what the class modulates with."""
    h, f = model.hidden_size, model.feed_forward_size
    adaptive = 6 * h * h if model.conditioning == "adaln" else 0
    return 2 * h * h + 2 * h * model.key_value_size + 3 * h * f + adaptive


def layer_forward_flops(model: ModelConfig, grid: Grid) -> list[int]:
    """Return the operations of each layer's forward pass for one image; a multiply-add counts as two.

    Attention counts the full square of positions, as the published accounts of MFU do; table look-ups count nothing.
    """
    h, m, positions = model.hidden_size, model.subtokens, grid.cells
    is_masked, adaptive = model.modelling == "masked", 6 * h * h if model.conditioning == "adaln" else 0
    length = positions + is_masked
    embedding = 2 * (length - 1) * m * h * h if m > 1 else 0  # the last code is no input where it is only predicted
    block = 2 * length * (_block_matrices(model) - adaptive) + 2 * adaptive + 4 * length**2 * h
    head = 2 * positions * (m * model.vocabulary * h + (h * h if is_masked else 0))
    if model.subtoken_prediction == "sequential":
        head += 2 * positions * m * 3 * h * h
    return [embedding, *[block] * model.num_layers, head]


def training_flops_per_image(model: ModelConfig, grid: Grid) -> int:
    """Return the operations of one forward and backward pass for one image: the backward costs two forwards."""
    return 3 * sum(layer_forward_flops(model, grid))


def device_peak_flops(device_name: str) -> float | None:
    """Return the dense bf16 peak of a GPU by its name, as its driver gives it; None where it is not known."""
    return next((peak for part, peak in PEAK_FLOPS.items() if part in device_name), None)
