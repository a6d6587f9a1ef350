"""The configuration of a run: every setting, its type and its default, which is the paper's.

One `Config` describes a whole run: the tokenizer that makes codes from images, the shards of codes, the model, its
schedule and its layout over processes. `config_rules/` says what goes with what, `config_file.py` reads it from YAML.
Knows nothing of torch.
"""

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic_core import PydanticCustomError

Count = Annotated[int, Field(ge=1)]
Cadence = Annotated[int, Field(ge=0)]  # every so many steps; 0 = never
Share = Annotated[float, Field(ge=0, lt=1)]
Portion = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def _cadence_or_auto(value: object) -> object:
    is_cadence = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not is_cadence and value != "auto":
        raise PydanticCustomError("cadence_or_auto", "neither a cadence nor auto")
    return value


class Grid(NamedTuple):
    """The cells of an image, one code each."""

    rows: Count
    columns: Count

    @property
    def cells(self) -> int:
        return self.rows * self.columns

    def __repr__(self) -> str:
        return f"{self.rows} x {self.columns}"


class ImageSize(NamedTuple):
    """The sides of an image in pixels."""

    height: Count
    width: Count

    def __repr__(self) -> str:
        return f"{self.height} x {self.width}"


def _two_sides(value: object) -> object:
    sides = value if isinstance(value, list | tuple) else (value, value)
    if len(sides) != 2 or not all(type(side) is int and side >= 1 for side in sides):
        raise PydanticCustomError("sides", "neither one side nor two")
    return sides


def _one_side(sides: tuple[int, int]) -> int | tuple[int, int]:
    return sides[0] if sides[0] == sides[1] else sides


# Two sides, of which a square may name one: as `16`, or as `[16, 24]`, rows or height first.
Sides = (BeforeValidator(_two_sides), PlainSerializer(_one_side))


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunConfig(Section):
    directory: Path  # everything that the run writes goes here
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # weights, sample order, dropout: all of it follows from this
    init_from: Path | None = None  # another run, or one of its checkpoints, whose weights a new run begins with
    init_weights: Literal["ema", "raw"] = "ema"  # which of the two it has


class TokenizerConfig(Section):
    """What turns an image into a grid of codes and back: the binary autoencoder (BAE, paper section 3.2) or a VQGAN."""

    directory: Path  # where the trained tokenizer lies: config.json and model.safetensors
    kind: Literal["bae", "vqgan"] = "bae"  # a vector for each bit that is set, or a codebook of vectors
    code_bits: Annotated[int, Field(ge=1, le=64)] = 16  # bits per image position
    image_size: Annotated[ImageSize, *Sides] = ImageSize(256, 256)  # pixels; one number, or [height, width]
    patch_size: Count = 1  # pixels per side folded into channels before the first convolution; 4 suits small images
    base_channels: Annotated[int, Field(multiple_of=32, ge=32)] = 128  # group norm has 32 groups
    channel_multipliers: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 1, 2, 2, 4)
    res_blocks: Count = 2  # residual blocks per resolution
    attention_resolutions: tuple[Count, ...] = (16,)  # feature maps with self-attention, by their shorter side
    embedding_channels: Annotated[int, Field(multiple_of=32, ge=32)] = 256
    quantization: Literal["bernoulli", "deterministic"] = "bernoulli"  # how a BAE in training draws bits
    codebook_size: Annotated[int, Field(ge=0)] = 0  # entries of a VQGAN's codebook; 0 = a BAE, which has none
    codebook_dim: Count = 8  # channels of an entry; these three are a VQGAN's alone, by default as LlamaGen has them
    codebook_normalized: bool = True  # entries and what is looked up have length 1

    @property
    def downsampling(self) -> int:
        """Pixels per grid cell and side."""
        return self.patch_size * 2 ** (len(self.channel_multipliers) - 1)

    @property
    def grid(self) -> Grid:
        """The cells of an image."""
        height, width = self.image_size
        return Grid(height // self.downsampling, width // self.downsampling)

    @property
    def feature_maps(self) -> list[ImageSize]:
        """The sizes of the networks' feature maps, the finest first."""
        shrinking = (self.patch_size * 2**level for level in range(len(self.channel_multipliers)))
        return [ImageSize(*(side // by for side in self.image_size)) for by in shrinking]

    @property
    def positions(self) -> int:
        """Codes of an image."""
        return self.grid.cells

    @property
    def codebook_bits(self) -> int:
        """Bits that the number of a codebook's entry takes."""
        return (self.codebook_size - 1).bit_length()


class TokenizerTrainingConfig(Section):
    """Defaults of Binary Latent Diffusion, where the BAE comes from; the paper trains 1,000,000 steps at batch 256."""

    images: Path = Path("data/imagenet")  # train/<class>/*.jpg and validation/<class>/*.jpg
    total_steps: Count = 1_000_000
    batch_size: Count = 256
    learning_rate: Positive = 5.4e-5
    warmup_steps: Cadence = 0
    final_learning_rate_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # cosine from learning_rate to this share
    ema_decay: Share = 0.9995
    reconstruction: Literal["l1", "l2"] = "l1"  # mean absolute or squared error of pixels in 0 to 1
    perceptual: Literal["none", "mobilenet_v2", "lpips_vgg"] = "lpips_vgg"  # whose features tell how alike images look
    perceptual_weight: Annotated[float, Field(ge=0)] = 1.0
    vgg_weights: Path = Path("data/weights/vgg16-397923af.pth")  # torchvision's file; for lpips_vgg, as is the next
    lpips_weights: Path = Path("data/weights/vgg.pth")  # of LPIPS 0.1
    adversarial_weight: Annotated[float, Field(ge=0)] = 1.0  # largest; it adapts below that. 0 = no discriminator
    adversarial_from: Cadence = 30_001  # the step at which the discriminator starts
    diff_augment: bool = False  # colours and places of what the discriminator sees vary, which few images need
    commitment_weight: Annotated[float, Field(ge=0)] = 0.25  # of a VQGAN's encoder towards its codebook (beta)
    revive_after: Cadence = 500  # updates that no image uses an entry of a codebook before it is drawn anew; 0 = never
    log_every: Cadence = 50
    checkpoint_every: Cadence = 5_000
    loader_workers: Annotated[int, Field(ge=0)] = 8


class DataConfig(Section):
    shards: Path  # a folder with manifest.json, made by `elm tokenize`
    class_dropout: Share = 0.1  # share of samples that train the unconditional model
    max_bad_shards: Share = 0.05  # share of the training shards that may be missing or damaged; 0 = none
    verify: bool = False  # compare the checksum of each shard when it is first touched, which reads all of it


class ModelConfig(Section):
    """The transformer (paper sections 3.5 and 3.6) and its variants; the defaults are those of the published models."""

    num_layers: Count
    hidden_size: Count
    num_heads: Count
    subtokens: Count  # sub-codes per position: `subtokens` x `subtoken_bits` = `tokenizer.code_bits`
    subtoken_bits: Annotated[int, Field(ge=1, le=16)]
    num_classes: Count = 1000
    dropout: Share = 0.1  # of the input sequence and of both branches of a block; attention has none
    drop_path: Share = 0.0  # of the last block's branches, for whole images; grows linearly from 0 in the first block
    modelling: Literal["autoregressive", "masked"] = "autoregressive"  # codes from those before, or hidden from shown
    scan: Literal["row_raster", "column_raster", "row_zigzag", "column_zigzag", "diagonal_zigzag"] = "row_raster"
    position_encoding: Literal["rope_2d", "rope_1d", "learned"] = "rope_2d"
    rope_grid: Cadence = 0  # cells per side that rotary positions are squeezed into; 0 = they are whole numbers
    conditioning: Literal["token", "adaln"] = "token"  # adaln: the class also scales and shifts what blocks normalize
    attention: Literal["dot_product", "cosine"] = "dot_product"
    key_value_heads: Cadence = 0  # that groups of query heads share; 0 = one for each
    qk_norm: bool = False  # queries and keys have an RMS norm each, for every head the same
    subtoken_prediction: Literal["parallel", "sequential"] = "parallel"  # sequential: from those before in the position

    @property
    def vocabulary(self) -> int:
        """Entries of one sub-code's table and of one head."""
        return 2**self.subtoken_bits

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def is_foldable(self) -> bool:
        """Whether sampling has the layers in fewer steps (`model/folded.py`); it takes others as they are."""
        is_sequence = self.modelling == "autoregressive" and self.conditioning == "token"
        is_rotated = self.position_encoding != "learned" and self.attention == "dot_product" and not self.qk_norm
        return is_sequence and is_rotated and not self.key_value_heads and self.subtokens_at_once == self.subtokens

    @property
    def subtokens_at_once(self) -> int:
        """Sub-tokens of a position that are drawn together."""
        return {"parallel": self.subtokens, "sequential": 1}[self.subtoken_prediction]

    @property
    def key_value_size(self) -> int:
        """Channels of all keys, and of all values."""
        return (self.key_value_heads or self.num_heads) * self.head_size

    @property
    def feed_forward_size(self) -> int:
        """SwiGLU width: 8/3 of the hidden size, rounded up to a multiple of 256."""
        return -(-int(8 * self.hidden_size / 3) // 256) * 256


class LossConfig(Section):
    """What is minimized beside the cross-entropy, which is what runs report."""

    label_smoothing: Share = 0.0  # of each target's probability, given to all entries alike
    hamming_distance: Cadence = 0  # bits in which an entry may differ from the target and still share its probability
    z_loss: Annotated[float, Field(ge=0)] = 0.0  # weight of the squared log of the softmax's denominator
    mask_ratio: Literal["per_sample", "per_batch"] = "per_sample"  # of masked modelling: drawn for each image, or once


class ScheduleConfig(Section):
    total_steps: Count = 2_001_823  # 400 epochs of 1,281,167 images at batch 256
    global_batch_size: Count = 256  # images per step, over all processes
    micro_batch_size: Count = 32  # images per forward pass and replica; accumulation is derived
    warmup_steps: Cadence = 0
    final_learning_rate_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # cosine to this share; 1 = constant (paper)


class OptimizerConfig(Section):
    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 1e-4
    betas: tuple[Share, Share] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0)] = 0.05  # of matrices; vectors have none
    gradient_clipping: Annotated[float, Field(ge=0)] = 1.0  # largest global norm; 0 = off
    ema_decay: Share = 0.9999  # of the averaged weights that are sampled from


class ParallelConfig(Section):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"  # of the compute; master weights, norms and the loss are fp32
    pipeline_stages: Count = 1
    schedule: Literal["auto", "1f1b", "dualpipev", "zbv"] = "1f1b"  # of a pipeline's passes; auto = what idles least
    stage_boundaries: tuple[Count, ...] = ()  # first layer of each stage after the first; () = divide by cost
    zero_stage: Literal[0, 1, 2, 3] = 1
    offload: tuple[Literal["optimizer", "parameters"], ...] = ()  # what ZeRO keeps in main memory, and not on the GPU
    checkpoint_every_blocks: Cadence = 0  # recompute activations in the backward pass of every n-th block; 0 = off
    timeout_minutes: Positive = 10  # of any one collective operation


class KernelsConfig(Section):
    """What computes the costly parts: `auto` takes a fused kernel where there is one that works on the device."""

    attention: Literal["auto", "flash", "sdpa", "reference"] = "auto"  # flash-attn, PyTorch's, or the plain definition
    norm: Literal["auto", "apex", "torch"] = "auto"
    optimizer: Literal["auto", "apex", "torch"] = "auto"
    compile_blocks: bool = False  # torch.compile; the first step then takes a minute or more


class CheckpointConfig(Section):
    # Steps, 0 = at the end and at a stop alone; auto = what loses least time, by how long a save takes and mtbf_hours.
    every: Annotated[int | Literal["auto"], BeforeValidator(_cadence_or_auto)] = 10_000
    mtbf_hours: Positive = 24  # mean time between two faults of the whole run, as `elm supervise` reports it
    keep_last: Count = 3
    keep_every: Cadence = 100_000  # the first in each so many steps is kept for good; 0 = none
    asynchronous: bool = True  # train on while it is written; takes host memory for this process's part of one


class MonitoringConfig(Section):
    log_every: Count = 50
    validation_every: Cadence = 5_000
    validation_samples: Count = 4_096
    sample_every: Cadence = 10_000
    sample_classes: tuple[Annotated[int, Field(ge=0)], ...] = (207, 360, 387, 974, 88, 979, 417, 279)
    tensorboard: bool = True
    # Without progress end a rank; below parallel.timeout_minutes, whose error does not say who hangs. 0 = off
    hang_minutes: Annotated[float, Field(ge=0)] = 8
    profile_from: Cadence = 0  # the step from which a trace of `profile_steps` steps is written to logs/; 0 = none
    profile_steps: Count = 3
    memory_snapshot: bool = False  # record a GPU's allocations, and write them to logs/ if it runs out of memory


class HealthConfig(Section):
    """What a run does about numbers and processes that go wrong (docs/faults.md)."""

    skips_before_rollback: Count = 10  # steps in a row without a finite gradient; then back to the newest checkpoint
    rollbacks: Annotated[int, Field(ge=0)] = 3  # without a checkpoint between them, before the run gives up
    compare_replicas_every: Cadence = 1_000  # steps; their weights must be equal to the bit. 0 = never
    straggler_window: Cadence = 25  # steps over which a rank is compared with its peers; 0 = never
    straggler_ratio: Annotated[float, Field(gt=1)] = 1.15  # of the others' time, in two windows running, that is slow


class SamplingConfig(Section):
    """How images are drawn (paper section 3.6, table 15)."""

    cfg_scale: Annotated[float, Field(ge=1)] = 4.0
    cfg_schedule: Literal["constant", "linear", "cos", "log", "square", "square_root"] = "linear"
    cfg_interval: tuple[Portion, Portion] = (0.0, 1.0)  # share of the passes from which and up to which guidance is on
    temperature: Positive = 1.0
    top_k: Cadence = 0  # of each sub-code; 0 = all
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0  # share of each sub-code's distribution; 1 = all
    iterations: Count = 10  # of masked modelling: passes in which an image is uncovered
    mask_temperature: Annotated[float, Field(ge=0)] = 9.0  # of masked modelling: noise in what is uncovered first (tau)
    remask: bool = False  # of masked modelling: cells that are uncovered may be hidden again
    lookahead: Count = 1  # positions that one pass checks guesses of, at most those of an image; 1 = none is guessed
    precision: Literal["fp32", "bf16"] = "fp32"  # of `elm sample`; a run in training samples in its own
    weights_int8: bool = False  # keep the matrices of the blocks in 8 bits, which saves memory and not time
    compile: bool = False  # the blocks of `elm sample`, by torch.compile; the first image then takes a minute
    cuda_graphs: bool = False  # of `elm sample` on a GPU: replay one recorded step instead of launching its kernels
    weights: Literal["ema", "raw"] = "ema"


class Config(Section):
    run: RunConfig
    tokenizer: TokenizerConfig
    tokenizer_training: TokenizerTrainingConfig = TokenizerTrainingConfig()
    data: DataConfig
    model: ModelConfig
    loss: LossConfig = LossConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    parallel: ParallelConfig = ParallelConfig()
    kernels: KernelsConfig = KernelsConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    health: HealthConfig = HealthConfig()
    sampling: SamplingConfig = SamplingConfig()
