"""The folder for transformers: it computes what we do, and what the published implementation did."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import elm
from golden_models import load_golden_elm
from torch import Tensor

from elm_dist.checkpoint.export import LAYOUTS, export_run
from elm_dist.checkpoint.export_huggingface import build_config, build_generation_config, logits_of_both
from elm_dist.checkpoint.huggingface.modeling_elm import ELMForCausalLM
from elm_dist.checkpoint.model import load_model
from elm_dist.checkpoint.model_layouts import ModelLayout, huggingface_layout
from elm_dist.checkpoint.store import Checkpoint
from elm_dist.checkpoint.tokenizer import tokenizer_fingerprint
from elm_dist.config import Grid, ModelConfig, SamplingConfig
from elm_dist.config_file import load_config
from elm_dist.data.loader import TokenLoader
from elm_dist.errors import CheckpointError, TokenizerError
from elm_dist.model.elm import ELM, code_shape


def as_llama(elm: ELM, model: ModelConfig, grid: Grid, sampling: SamplingConfig) -> ELMForCausalLM:
    exported = ELMForCausalLM(build_config(model, grid, sampling)).eval()
    exported.generation_config = build_generation_config(grid, sampling)
    weights = elm.state_dict()
    exported.load_state_dict({name: make(weights.__getitem__) for name, make in huggingface_layout(model).items()})
    return exported


def golden_llama(
    name: str, sampling: SamplingConfig | None = None
) -> tuple[ELMForCausalLM, ModelConfig, dict[str, Tensor]]:
    elm, model, golden, grid = load_golden_elm(name)
    return as_llama(elm, model, grid, sampling or SamplingConfig()), model, golden


@pytest.mark.parametrize("name", ["ar_1-6", "ar_2-5"])
@torch.inference_mode()
def test_logits_are_those_of_the_published_implementation(name: str) -> None:
    exported, model, golden = golden_llama(name)
    for labels, expected in (
        (golden["classes"], golden["logits"]),
        (torch.full_like(golden["classes"], model.num_classes), golden["null_logits"]),
    ):
        codes = golden["codes"][:, :-1]
        codes = codes if model.subtokens > 1 else codes.squeeze(2)
        logits = exported(input_ids=torch.cat([exported.class_ids(labels), codes], dim=1)).logits
        torch.testing.assert_close(logits.view(expected.shape), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["ar_1-6", "ar_2-5"])
def test_the_loss_is_that_of_the_published_implementation(name: str) -> None:
    exported, model, golden = golden_llama(name)
    codes = golden["codes"] if model.subtokens > 1 else golden["codes"].squeeze(2)
    ids = torch.cat([exported.class_ids(golden["classes"]), codes], dim=1)
    loss = exported(input_ids=ids, labels=ids).loss
    assert loss.item() == pytest.approx(golden["loss"].item(), abs=1e-6)
    loss.backward()
    assert exported.model.embed_tokens.weight.grad is not None


@pytest.mark.parametrize("schedule", ["constant", "linear", "cos", "log", "square", "square_root"])
@pytest.mark.parametrize("name", ["ar_1-6", "ar_2-5"])
def test_greedy_codes_are_those_of_the_published_implementation(name: str, schedule: str) -> None:
    scale = 2.0 if schedule == "constant" else 4.0
    exported, _, golden = golden_llama(name, SamplingConfig(cfg_scale=scale, cfg_schedule=schedule))
    codes = exported.generate_codes(golden["classes"], do_sample=False)
    assert torch.equal(codes, golden[f"greedy_{schedule}"])


def test_generate_of_transformers_draws_the_same_codes() -> None:
    exported, model, golden = golden_llama("ar_1-6")
    begin = exported.class_ids(golden["classes"])
    null = exported.class_ids(torch.full_like(golden["classes"], model.num_classes))
    drawn = exported.generate(begin, do_sample=False, guidance_scale=2.0, negative_prompt_ids=null)
    assert torch.equal(drawn[:, 1:], golden["greedy_constant"].squeeze(2))
    again = exported.generate(
        begin, do_sample=False, guidance_scale=2.0, negative_prompt_ids=null, cache_implementation="static"
    )
    assert torch.equal(again, drawn)


def test_generate_of_transformers_cannot_draw_sub_tokens() -> None:
    exported, _, golden = golden_llama("ar_2-5")
    with pytest.raises(ValueError, match=r"draws 2 sub-tokens at once, which `generate` cannot; use `generate_codes"):
        exported.generate(exported.class_ids(golden["classes"]))


def test_drawing_follows_the_generator_and_the_settings() -> None:
    sampling = SamplingConfig(temperature=1.5, top_k=3, top_p=0.9, cfg_interval=(0.25, 0.5))
    exported, model, golden = golden_llama("ar_2-5", sampling)

    def draw(seed: int, count: int = 20) -> Tensor:
        labels = golden["classes"][:1].repeat(count)
        return exported.generate_codes(labels, generator=torch.Generator().manual_seed(seed))

    codes = draw(0)
    assert codes.shape == (20, 16, 2)
    assert torch.equal(codes, draw(0))
    assert not torch.equal(codes, draw(1))
    assert all(len(codes[:, 0, slot].unique()) <= 3 for slot in range(2))  # top_k, of the same logits for all
    assert codes.min() >= 0
    assert codes.max() < model.vocabulary


def test_without_guidance_the_null_class_is_not_computed() -> None:
    exported, _, golden = golden_llama("ar_2-5", SamplingConfig(cfg_scale=1.0))
    rows: list[int] = []
    exported.lm_head.register_forward_hook(lambda module, inputs, logits: rows.append(len(logits)))
    codes = exported.generate_codes(golden["classes"], do_sample=False)
    assert set(rows) == {2}
    assert torch.equal(exported.generate_codes(golden["classes"], cfg_scale=1.0, do_sample=False), codes)
    assert not torch.equal(exported.generate_codes(golden["classes"], cfg_scale=4.0, do_sample=False), codes)


LOAD = """
import re, sys, torch
from pathlib import Path
from transformers import AutoConfig, AutoModelForCausalLM
assert AutoConfig.from_pretrained(".", trust_remote_code=True).subtokens == 2
model = AutoModelForCausalLM.from_pretrained(".", trust_remote_code=True)
assert type(model).__name__ == "ELMForCausalLM"
assert model.dtype is torch.float32
print(model.generate_codes([0, 3], do_sample=False).tolist())
loading, decoding = re.findall("```python\\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
exec(loading)
assert "elm_dist" not in sys.modules, "the folder must do without, but for pictures"
exec(decoding)
print(codes.shape, pictures.shape)
"""


def test_a_stranger_loads_the_folder_and_draws_as_its_card_says(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "my-elm.v1"  # hubs have such names, Python's modules do not
    said = elm("export", str(trained), "--to", "huggingface", "--out", str(out))
    assert "ema weights of step 6 in fp32 for huggingface; its logits are ours within " in said.stdout
    config = load_config(trained / "config.yaml")
    assert tokenizer_fingerprint(out / "tokenizer") == tokenizer_fingerprint(config.tokenizer.directory)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOAD]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=out)
    assert result.returncode == 0, result.stderr
    model = load_model(Checkpoint(trained / "checkpoints" / "step_00000006"), config, "ema")
    llama = as_llama(model, config.model, config.tokenizer.grid, config.sampling)
    codes = llama.generate_codes([0, 3], do_sample=False).tolist()
    assert result.stdout.splitlines() == [str(codes), "torch.Size([2, 16, 2]) (2, 32, 32, 3)"]


def test_logits_agree_on_codes_of_real_images(trained: Path, tmp_path: Path) -> None:
    export_run(trained, tmp_path / "out", "huggingface")
    config = load_config(trained / "config.yaml")
    model = load_model(Checkpoint(trained / "checkpoints" / "step_00000006"), config, "ema")
    exported = ELMForCausalLM.from_pretrained(tmp_path / "out")
    shape = code_shape(config.model, config.tokenizer.grid)
    options = {"global_batch_size": 8, "micro_batch_size": 8, "class_dropout": 0.1, "null_class": 4}
    batch = TokenLoader(config.data.shards, seed=0, **options).validation_micro_batch(0, 0)
    ours, theirs = logits_of_both(model, exported, shape, batch.codes, batch.labels)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    assert ours.abs().max() > 1e-3


def test_bf16_is_compared_with_our_weights_in_bf16(trained: Path, tmp_path: Path) -> None:
    exported = export_run(trained, tmp_path / "out", "huggingface", dtype="bf16")
    assert exported.difference is not None
    assert exported.difference < 1e-6
    assert ELMForCausalLM.from_pretrained(tmp_path / "out").dtype is torch.bfloat16


def with_heads_in_another_order(model: ModelConfig, grid: Grid) -> ModelLayout:
    heads = [f"head.outputs.{index}.weight" for index in range(model.subtokens)][::-1]
    return huggingface_layout(model) | {"lm_head.weight": lambda read: torch.cat([read(head) for head in heads])}


def test_other_logits_than_ours_leave_nothing(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYOUTS, "huggingface", with_heads_in_another_order)
    with pytest.raises(CheckpointError, match=r"computes other logits than we do, off by up to .* so nothing was ex"):
        export_run(trained, tmp_path / "out", "huggingface")
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_of_another_kind_is_refused(trained: Path, tmp_path: Path) -> None:
    run, tokenizer = tmp_path / "run", tmp_path / "tokenizer"
    shutil.copytree(trained / "checkpoints", run / "checkpoints")
    shutil.copytree(trained.parent / "tokenizer", tokenizer)
    text = (trained / "config.yaml").read_text().replace(str(trained.parent / "tokenizer"), str(tokenizer))
    (run / "config.yaml").write_text(text)
    other = (tokenizer / "config.json").read_text().replace('"res_blocks": 1', '"res_blocks": 2')
    (tokenizer / "config.json").write_text(other)
    with pytest.raises(TokenizerError, match=r"is not the one that the configuration describes: res_blocks is 2"):
        export_run(run, tmp_path / "out", "huggingface")
    assert not (tmp_path / "out").exists()


def test_without_a_tokenizer_the_codes_make_no_pictures(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained / "checkpoints", run / "checkpoints")
    text = (trained / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(str(trained.parent / "tokenizer"), str(tmp_path / "gone")))
    export_run(run, tmp_path / "out", "huggingface")
    assert "there is no tokenizer to export; without it the codes make no pictures" in caplog.text
    assert not (tmp_path / "out" / "tokenizer").exists()
