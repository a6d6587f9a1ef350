"""The configuration of a run: every setting, its type and its default, which is the paper's.

One `Config` describes a whole run: the tokenizer that makes codes from images, the shards of codes, the model, its
schedule and its layout over processes. `config_rules.py` says what goes with what, `config_file.py` reads it from YAML.
Knows nothing of torch.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
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


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunConfig(Section):
    directory: Path  # everything that the run writes goes here
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # weights, sample order, dropout: all of it follows from this


class TokenizerConfig(Section):
    """What turns an image into a grid of codes and back: the binary autoencoder (BAE, paper section 3.2) or a VQGAN."""

    directory: Path  # where the trained tokenizer lies: config.json and model.safetensors
    kind: Literal["bae", "vqgan"] = "bae"  # a vector for each bit that is set, or a codebook of vectors
    code_bits: Annotated[int, Field(ge=1, le=64)] = 16  # bits per image position
    image_size: Count = 256  # pixels per side
    patch_size: Count = 1  # pixels per side folded into channels before the first convolution; 4 suits small images
    base_channels: Annotated[int, Field(multiple_of=32, ge=32)] = 128  # group norm has 32 groups
    channel_multipliers: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 1, 2, 2, 4)
    res_blocks: Count = 2  # residual blocks per resolution
    attention_resolutions: tuple[Count, ...] = (16,)  # feature-map sizes with self-attention
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
    def grid(self) -> int:
        """Grid cells per side; an image is grid x grid codes."""
        return self.image_size // self.downsampling

    @property
    def positions(self) -> int:
        return self.grid**2

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
    """The autoregressive transformer (paper sections 3.5 and 3.6)."""

    num_layers: Count
    hidden_size: Count
    num_heads: Count
    subtokens: Count  # sub-codes per position: `subtokens` x `subtoken_bits` = `tokenizer.code_bits`
    subtoken_bits: Annotated[int, Field(ge=1, le=16)]
    num_classes: Count = 1000
    dropout: Share = 0.1  # of the input sequence and of both branches of a block; attention has none

    @property
    def vocabulary(self) -> int:
        """Entries of one sub-code's table and of one head."""
        return 2**self.subtoken_bits

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def feed_forward_size(self) -> int:
        """SwiGLU width: 8/3 of the hidden size, rounded up to a multiple of 256."""
        return -(-int(8 * self.hidden_size / 3) // 256) * 256


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
    cfg_interval: tuple[Portion, Portion] = (0.0, 1.0)  # share of positions from which and up to which guidance is on
    temperature: Positive = 1.0
    top_k: Cadence = 0  # of each sub-code; 0 = all
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0  # share of each sub-code's distribution; 1 = all
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
    schedule: ScheduleConfig = ScheduleConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    parallel: ParallelConfig = ParallelConfig()
    kernels: KernelsConfig = KernelsConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    health: HealthConfig = HealthConfig()
    sampling: SamplingConfig = SamplingConfig()
