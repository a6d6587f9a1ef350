"""Every rule of what goes with what, the derived sizes, and the paper's values as defaults."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elm_dist.config import ImageSize, ModelConfig, OptimizerConfig, ScheduleConfig, TokenizerConfig
from elm_dist.config_file import load_config
from elm_dist.config_rules.every_rule import RULES
from elm_dist.errors import ConfigError

DEMO = Path(__file__).parent.parent / "configs" / "demo.yaml"


def refuse(*overrides: str) -> str:
    """Return the one problem that the overrides cause in the demo's configuration."""
    with pytest.raises(ConfigError, match="1 problem\n") as caught:
        load_config(DEMO, list(overrides))
    return str(caught.value).partition("\n")[2].strip()


BROKEN = {
    "_codes_split_evenly": (
        ["model.subtoken_bits=10"],
        "model.subtoken_bits: 2 sub-tokens x 10 bits = 20 bits, but tokenizer.code_bits is 16; make the product equal, "
        "or set tokenizer.code_bits=20",
    ),
    "_heads_fit": (
        ["model.num_heads=7"],
        "model.num_heads: 7 heads do not divide hidden_size 128; choose a divisor of it",
    ),
    "_image_fits": (
        ["tokenizer.image_size=30"],
        "tokenizer.image_size: 30 x 30 pixels are no multiple of the down-sampling 4 (patch_size x 2 per channel "
        "multiplier after the first); choose a multiple of it, as height and as width",
    ),
    "_codebook_fits": (
        ["tokenizer.kind=vqgan", "tokenizer.codebook_size=16384"],
        "tokenizer.code_bits: 16384 entries of a codebook are numbered in 14 bits, not 16; set tokenizer.code_bits=14, "
        "or tokenizer.codebook_size=65536",
    ),
    "_losses_fit": (
        ["tokenizer.image_size=16", "tokenizer_training.adversarial_weight=1"],
        "tokenizer_training.adversarial_weight: images of 16 x 16 pixels are too small for one patch of the "
        "discriminator; set tokenizer_training.adversarial_weight=0, or tokenizer.image_size to 24 or more",
    ),
    "_batch_divides": (
        ["schedule.global_batch_size=65"],
        "schedule.global_batch_size: 65 images are no multiple of micro_batch_size 16; choose a multiple of it",
    ),
    "_stages_fit": (
        ["parallel.pipeline_stages=7"],
        "parallel.pipeline_stages: 7 stages need at least one block each, but model.num_layers is 4; use at most 4 "
        "stages",
    ),
    "_boundaries_fit": (
        ["parallel.pipeline_stages=3", "parallel.stage_boundaries=[2]"],
        "parallel.stage_boundaries: 3 stages have 2 boundaries, not 1; give the first layer of each stage after the "
        "first, or [] to divide by cost",
    ),
    "_offload_fits": (
        ["parallel.offload=[optimizer]"],
        "parallel.offload: the optimizer's state leaves the GPU with ZeRO 1 to 3 and without a pipeline; set "
        "parallel.offload=[], or parallel.pipeline_stages=1 and parallel.zero_stage=1",
    ),
    "_zero_bubble_fits": (
        ["parallel.schedule=zbv", "parallel.checkpoint_every_blocks=1"],
        "parallel.schedule: zbv splits the backward pass, which does not go with parallel.checkpoint_every_blocks; set "
        "it to 0, or parallel.schedule=1f1b",
    ),
    "_engines_fit": (
        ["parallel.zero_stage=2"],
        "parallel.zero_stage: a pipeline goes with ZeRO stage 1 alone, not 2 (2 and 3 split gradients that the "
        "pipeline still accumulates, 0 clips them wrongly); set parallel.zero_stage=1, or parallel.pipeline_stages=1",
    ),
    "_fused_kernels_have_a_gpu": (
        ["kernels.norm=apex", "parallel.device=cpu"],
        "kernels.norm: apex computes on a GPU, but parallel.device is cpu; set kernels.norm=auto, or "
        "parallel.device=cuda",
    ),
    "_flash_fits": (
        ["kernels.attention=flash"],
        "kernels.attention: flash computes in bf16 or fp16, but parallel.precision is fp32; set "
        "kernels.attention=auto, or parallel.precision=bf16",
    ),
    "_apex_optimizer_fits": (
        ["kernels.optimizer=apex", "optimizer.name=sgd"],
        "kernels.optimizer: apex has no sgd; set kernels.optimizer=auto, or optimizer.name=adamw",
    ),
    "_compiled_blocks_hold_their_weights": (
        ["kernels.compile_blocks=true", "parallel.pipeline_stages=1", "parallel.zero_stage=3"],
        "kernels.compile_blocks: ZeRO 3 gathers weights from within the block, which breaks what is compiled into "
        "pieces; set kernels.compile_blocks=false, or parallel.zero_stage=2",
    ),
    "_sample_classes_exist": (
        ["monitoring.sample_classes=[3, 10, 11]"],
        "monitoring.sample_classes: there is no class 10, 11; classes are 0 to 9",
    ),
    "_top_k_fits": (
        ["sampling.top_k=257"],
        "sampling.top_k: 257 is more than the 256 entries of a sub-code of 8 bits; use 1 to 256, or 0 for all",
    ),
    "_guidance_ends_after_it_begins": (
        ["sampling.cfg_interval=[0.9, 0.1]"],
        "sampling.cfg_interval: guidance from 0.9 to 0.1 of the positions is never on; give [begin, end] with begin < "
        "end, as in [0.1, 0.9], or set sampling.cfg_scale=1 for none",
    ),
    "_variants_go_together": (
        ["model.modelling=masked", "model.scan=row_zigzag"],
        "model.scan: a masked model sees all codes at once, in no order, and so not in that of row_zigzag; set "
        "model.scan=row_raster, or model.modelling=autoregressive",
    ),
    "_soft_labels_fit": (
        ["loss.hamming_distance=9"],
        "loss.hamming_distance: entries of 8 bits differ in so many at most, not in 9; give 0 (off) to 8",
    ),
    "_sampling_has_it_for_the_model": (
        ["model.modelling=masked", "sampling.lookahead=2"],
        "sampling.lookahead: a masked model draws all codes in every pass, and guesses none; set sampling.lookahead=1",
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_names_the_place_the_reason_and_the_remedy(rule: str) -> None:
    overrides, message = BROKEN[rule]
    assert refuse(*overrides) == message


def test_every_rule_is_tested() -> None:
    assert {check.__name__ for _, check in RULES} == BROKEN.keys()


def test_a_head_must_rotate_in_two_dimensions() -> None:
    problem = refuse("model.hidden_size=60", "model.num_heads=10")
    assert re.match(r"model.num_heads: a head of 6 channels cannot be rotated.*is a multiple of 4$", problem)


def test_a_head_must_rotate_in_pairs() -> None:
    problem = refuse("model.hidden_size=60", "model.num_heads=20", "model.position_encoding=rope_1d")
    assert problem == (
        "model.num_heads: a head of 3 channels cannot be rotated in pairs; choose num_heads so that hidden_size / "
        "num_heads is even"
    )
    load_config(DEMO, ["model.hidden_size=60", "model.num_heads=20", "model.position_encoding=learned"])


def test_heads_share_keys_evenly() -> None:
    load_config(DEMO, ["model.num_heads=4", "model.key_value_heads=2"])
    assert refuse("model.num_heads=4", "model.key_value_heads=3") == (
        "model.key_value_heads: 3 heads of keys and values cannot be shared evenly by 4 heads; choose a divisor of "
        "model.num_heads, or 0 for one each"
    )


def test_learned_positions_cannot_be_squeezed() -> None:
    assert refuse("model.position_encoding=learned", "model.rope_grid=4") == (
        "model.rope_grid: learned positions are not rotary ones, which can be squeezed; set model.rope_grid=0, or "
        "model.position_encoding=rope_2d"
    )


def test_a_cosine_needs_no_norm() -> None:
    assert refuse("model.attention=cosine", "model.qk_norm=true") == (
        "model.qk_norm: a cosine has normed queries and keys already; set model.qk_norm=false, or "
        "model.attention=dot_product"
    )


def test_sub_tokens_in_sequence_are_several_and_drawn_code_by_code() -> None:
    sequential = "model.subtoken_prediction=sequential"
    load_config(DEMO, [sequential, "sampling.lookahead=4"])
    assert refuse(sequential, "model.modelling=masked") == (
        "model.subtoken_prediction: a masked model draws whole codes in every pass; set "
        "model.subtoken_prediction=parallel, or model.modelling=autoregressive"
    )
    assert refuse(sequential, "model.subtokens=1", "model.subtoken_bits=16") == (
        "model.subtoken_prediction: a lone sub-token has none before it in its position; set "
        "model.subtoken_prediction=parallel, or model.subtokens to 2 or more"
    )


@pytest.mark.parametrize("setting", ["compile", "cuda_graphs"])
@pytest.mark.parametrize(
    "variant",
    ["conditioning=adaln", "attention=cosine", "qk_norm=true", "key_value_heads=1", "subtoken_prediction=sequential"],
)
def test_what_cannot_be_folded_is_not_compiled_for_sampling(setting: str, variant: str) -> None:
    load_config(DEMO, [f"sampling.{setting}=true"])
    assert refuse(f"sampling.{setting}=true", f"model.{variant}") == (
        f"sampling.{setting}: this works for autoregressive models with rotary positions, dot products, a head of keys "
        f"for each of queries and parallel sub-tokens, without adaln or qk_norm; set sampling.{setting}=false"
    )


def test_attention_needs_a_feature_map_of_its_size() -> None:
    multipliers = "tokenizer.channel_multipliers=[1, 1]"
    assert load_config(DEMO, [multipliers, "tokenizer.attention_resolutions=[8, 4]"])
    problem = refuse(multipliers, "tokenizer.attention_resolutions=[16]")
    assert problem == "tokenizer.attention_resolutions: no feature map has a shorter side of 16; there are 8, 4"


def test_a_codebook_is_a_vqgans() -> None:
    assert refuse("tokenizer.codebook_size=65536") == (
        "tokenizer.codebook_size: a BAE has no codebook, and so none of 65536 entries; set tokenizer.kind=vqgan or "
        "tokenizer.codebook_size=0"
    )
    assert refuse("tokenizer.kind=vqgan") == (
        "tokenizer.codebook_size: a VQGAN needs a codebook of 2 entries or more, not 0; set "
        "tokenizer.codebook_size=65536, or tokenizer.kind=bae"
    )
    for entries in (32_769, 65_536):  # the fewest and the most that 16 bits number
        load_config(DEMO, ["tokenizer.kind=vqgan", f"tokenizer.codebook_size={entries}"])


def test_vgg_needs_pixels() -> None:
    assert load_config(DEMO, ["tokenizer.image_size=16", "tokenizer_training.perceptual=lpips_vgg"])
    assert refuse("tokenizer.image_size=[8, 32]", "tokenizer_training.perceptual=lpips_vgg") == (
        "tokenizer_training.perceptual: images of 8 x 32 pixels are too small for VGG16, which halves them four times; "
        "set tokenizer_training.perceptual=none, or tokenizer.image_size to 16 or more"
    )


@pytest.mark.parametrize("boundaries", ["[2, 2]", "[3, 2]", "[2, 6]"])
def test_no_stage_is_empty(boundaries: str) -> None:
    assert load_config(DEMO, ["parallel.pipeline_stages=3", "parallel.stage_boundaries=[1, 5]"])
    problem = refuse("parallel.pipeline_stages=3", f"parallel.stage_boundaries={boundaries}")
    assert problem == (
        f"parallel.stage_boundaries: {boundaries} would leave a stage empty; give increasing layers from 1, the first "
        "block, to 5, the head, or [] to divide by cost"
    )


def test_bf16_needs_zero() -> None:
    problem = refuse("parallel.pipeline_stages=1", "parallel.zero_stage=0", "parallel.precision=bf16")
    assert re.match(r"parallel.zero_stage: bf16 needs the fp32 master weights.*or parallel.precision=fp32$", problem)


def test_apex_steps_whole_groups_on_a_gpu() -> None:
    apex = ["kernels.optimizer=apex", "parallel.pipeline_stages=1"]
    assert load_config(DEMO, [*apex, "parallel.zero_stage=2"])
    assert refuse(*apex, "parallel.zero_stage=3") == (
        "kernels.optimizer: apex counts the updates of a whole group of weights, but ZeRO 3 steps groups in parts; set "
        "kernels.optimizer=auto, or parallel.zero_stage=2"
    )
    assert refuse(*apex, "parallel.offload=[optimizer]") == (
        "kernels.optimizer: apex computes on a GPU, but parallel.offload keeps the optimizer's state in main memory; "
        "set kernels.optimizer=auto, or parallel.offload=[]"
    )


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_zero_stage_goes_without_a_pipeline(stage: int) -> None:
    config = load_config(DEMO, ["parallel.pipeline_stages=1", f"parallel.zero_stage={stage}"])
    assert config.parallel.zero_stage == stage


def test_a_rule_rests_while_one_of_its_sections_is_broken() -> None:
    assert refuse("model.subtoken_bits=17") == "model.subtoken_bits: 17 is not allowed; give at most 16"


# The shapes and SwiGLU widths of table 7, and the two sizes beyond it.
@pytest.mark.parametrize(
    ("hidden_size", "width"),
    [(768, 2048), (1024, 2816), (1280, 3584), (1536, 4096), (1792, 4864), (2560, 6912), (4096, 11008)],
)
def test_feed_forward_size_is_the_published_one(hidden_size: int, width: int) -> None:
    model = ModelConfig(num_layers=1, hidden_size=hidden_size, num_heads=1, subtokens=2, subtoken_bits=8)
    assert model.feed_forward_size == width


def test_derived_model_sizes() -> None:
    model = ModelConfig(num_layers=24, hidden_size=1024, num_heads=16, subtokens=2, subtoken_bits=10)
    assert (model.head_size, model.vocabulary) == (64, 1024)


def test_the_papers_tokenizer_makes_256_codes() -> None:
    tokenizer = TokenizerConfig(directory=Path("tokenizers/bae_16"))
    assert (tokenizer.downsampling, tokenizer.grid, tokenizer.positions) == (16, (16, 16), 256)


@given(patch=st.integers(1, 8), levels=st.integers(1, 5), rows=st.integers(1, 40), columns=st.integers(1, 40))
def test_grid_times_downsampling_is_the_image(patch: int, levels: int, rows: int, columns: int) -> None:
    cell = patch * 2 ** (levels - 1)
    size, multipliers = ImageSize(rows * cell, columns * cell), (1,) * levels
    tokenizer = TokenizerConfig(directory=Path("t"), patch_size=patch, image_size=size, channel_multipliers=multipliers)
    assert tokenizer.downsampling == cell
    assert tokenizer.grid == tokenizer.feature_maps[-1] == (rows, columns)
    assert tokenizer.feature_maps[0] == (size.height // patch, size.width // patch)
    assert tokenizer.positions == rows * columns


def test_a_square_image_is_written_as_one_number() -> None:
    for text, size in (("32", (32, 32)), ("[32, 48]", (32, 48)), ("[32, 32]", (32, 32))):
        tokenizer = load_config(DEMO, [f"tokenizer.image_size={text}"]).tokenizer
        assert tokenizer.image_size == size
        assert tokenizer.model_dump(mode="json")["image_size"] == (32 if size == (32, 32) else list(size))


@pytest.mark.parametrize("value", ["0", "[32, 0]", "[32]", "[32, 48, 3]", "32.5", "true", "wide"])
def test_an_image_has_one_side_or_two(value: str) -> None:
    assert refuse(f"tokenizer.image_size={value}").endswith(
        " is not allowed; give a whole number of at least 1, or two as in [256, 384], height first"
    )


def test_attention_goes_by_the_shorter_side_of_a_map() -> None:
    shape = ["tokenizer.image_size=[32, 48]", "tokenizer.patch_size=1", "tokenizer.channel_multipliers=[1, 1, 2]"]
    assert load_config(DEMO, [*shape, "tokenizer.attention_resolutions=[8, 16]"])
    assert refuse(*shape, "tokenizer.attention_resolutions=[12]") == (
        "tokenizer.attention_resolutions: no feature map has a shorter side of 12; there are 32, 16, 8"
    )


def test_defaults_are_the_papers() -> None:
    schedule, optimizer = ScheduleConfig(), OptimizerConfig()
    assert schedule.total_steps == 400 * 1_281_167 // schedule.global_batch_size
    assert (optimizer.learning_rate, optimizer.betas, optimizer.weight_decay) == (1e-4, (0.9, 0.95), 0.05)
    assert (optimizer.gradient_clipping, optimizer.ema_decay) == (1.0, 0.9999)
    assert schedule.warmup_steps == 0
    assert schedule.final_learning_rate_share == 1


def test_a_configuration_does_not_change() -> None:
    config = load_config(DEMO)
    with pytest.raises(ValueError, match="frozen"):
        config.run.seed = 1  # type: ignore[misc]
