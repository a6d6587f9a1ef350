"""Every variant of the model leaves the house and comes back, in the formats that have a place for it."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import elm as run_elm
from command_line import refused
from model_variants import GRID, VARIANTS, build, describe
from transformers import LlamaForCausalLM
from written_run import write_run

from elm_dist.checkpoint.export import export_run
from elm_dist.checkpoint.formats import Target
from elm_dist.checkpoint.huggingface.modeling_elm import ELMForCausalLM
from elm_dist.checkpoint.pretrained import load_pretrained
from elm_dist.checkpoint.tokenizer import save_tokenizer
from elm_dist.codes.scan import scan_order
from elm_dist.config import Config, Grid
from elm_dist.errors import CheckpointError
from elm_dist.model.elm import DECODERS, ELM, layer_specs
from elm_dist.sampling.draw import draw_codes
from elm_dist.tokenizers.bae import BAE

OBLONG = [8 * side for side in GRID]  # pixels


@pytest.mark.parametrize("name", VARIANTS)
def test_our_own_names_hold_every_model(name: str, tmp_path: Path) -> None:
    model = describe(name)
    elm = build(model)
    write_run(tmp_path / "run", elm, model, OBLONG)
    export_run(tmp_path / "run", tmp_path / "out", "safetensors")
    loaded, weights = load_pretrained(tmp_path / "out").state_dict(), elm.state_dict()
    assert list(loaded) == list(weights)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())
    how = "uncovers the codes of an image" if model.modelling == "masked" else "gives the codes of an image one after"
    assert how in (tmp_path / "out" / "README.md").read_text()


def greedy(elm: ELM, config: Config, scale: float) -> torch.Tensor:
    sampling = config.sampling.model_copy(update={"top_k": 1, "cfg_scale": scale, "cfg_schedule": "constant"})
    build_decoder = lambda batch: DECODERS["autoregressive"](elm, batch).step  # noqa: E731
    return draw_codes(config, build_decoder, torch.tensor([0, 3]), [0, 1], sampling=sampling)


SEQUENCES: dict[str, dict[str, Any]] = {name: VARIANTS[name] for name in ("normed", "grouped", "rope_1d", "diagonal")}
SEQUENCES["squeezed"] = {"rope_grid": 2}
SEQUENCES["several"] = {
    "rope_grid": 2, "position_encoding": "rope_1d", "key_value_heads": 1, "qk_norm": True, "scan": "row_zigzag",
    "subtokens": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENCES)
def test_transformers_draws_what_we_draw(name: str, tmp_path: Path) -> None:
    model = describe("plain", **SEQUENCES[name])
    elm = build(model)
    config = write_run(tmp_path / "run", elm, model, OBLONG)
    exported = export_run(tmp_path / "run", tmp_path / "out", "huggingface")
    assert exported.difference is not None
    assert exported.difference < 1e-4
    theirs = ELMForCausalLM.from_pretrained(tmp_path / "out")
    theirs.config.cfg_schedule = "constant"
    assert torch.equal(theirs.generate_codes([0, 3], do_sample=False), greedy(elm, config, 2.0))


@pytest.mark.parametrize("options", [{}, {"key_value_heads": 2, "scan": "diagonal_zigzag"}])
def test_a_plain_llama_draws_what_we_draw_and_never_a_class(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = describe("rope_1d", subtokens=1, **options)
    elm = build(model)
    config = write_run(tmp_path / "run", elm, model, OBLONG)
    save_tokenizer(config.tokenizer.directory, BAE(config.tokenizer), config.tokenizer)
    said = run_elm("export", str(tmp_path / "run"), "--to", "llama", "--out", str(tmp_path / "out"))
    assert "in fp32 for llama; its logits are ours within " in said.stdout
    assert not list((tmp_path / "out").glob("*.py"))
    monkeypatch.chdir(tmp_path / "out")
    named: dict[str, Any] = {}
    for lines in re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL):
        exec(lines, named)
    llama = named["model"]
    assert type(llama) is LlamaForCausalLM
    assert named["pictures"].shape == (2, *OBLONG, 3)
    drawn, order = named["ids"][:, 1:], scan_order(model.scan, GRID).copy()
    assert torch.equal(named["codes"].squeeze(2)[:, order], drawn), "pictures are of codes in raster order"
    begin, null = torch.tensor([[32], [35]]), torch.full((2, 1), 32 + model.num_classes)
    guided = {"guidance_scale": 2.0, "negative_prompt_ids": null}
    ids = llama.generate(begin, do_sample=False, **guided)
    in_raster = greedy(elm, config, 2.0).squeeze(2)
    assert torch.equal(ids[:, 1:], in_raster[:, order])
    torch.manual_seed(0)
    many = begin.repeat(50, 1)
    assert llama.generate(many)[:, 1:].max() < model.vocabulary
    llama.generation_config.suppress_tokens = None
    assert llama.generate(many)[:, 1:].max() >= model.vocabulary, "so it is this that keeps classes away"


REFUSED: list[tuple[Target, dict[str, Any], Any, str]] = [
    ("official", {"scan": "row_zigzag"}, 32, "model.scan=row_zigzag, only for model.scan=row_raster"),
    ("official", {"position_encoding": "learned"}, 32, "model.position_encoding=learned, only for .*=rope_2d"),
    ("official", {"rope_grid": 2}, 32, "model.rope_grid=2, only for model.rope_grid=0"),
    ("official", {"conditioning": "adaln"}, 32, "model.conditioning=adaln, only for model.conditioning=token"),
    ("official", {"attention": "cosine"}, 32, "model.attention=cosine, only for model.attention=dot_product"),
    ("official", {"key_value_heads": 2}, 32, "model.key_value_heads=2, only for model.key_value_heads=0"),
    ("official", {"qk_norm": True}, 32, "model.qk_norm=true, only for model.qk_norm=false"),
    (
        "official",
        {"subtoken_prediction": "sequential"},
        32,
        "model.subtoken_prediction=sequential, only for .*=parallel",
    ),
    (
        "huggingface",
        {"subtoken_prediction": "sequential"},
        32,
        "model.subtoken_prediction=sequential, only for .*=paral",
    ),
    ("official", {"modelling": "masked"}, 32, "model.modelling=masked and model.subtokens=2, only for .*=1"),
    ("official", {}, OBLONG, "3 x 4 codes, only for a square grid"),
    ("huggingface", {"modelling": "masked"}, 32, "model.modelling=masked, only for model.modelling=autoregressive"),
    ("huggingface", {"conditioning": "adaln"}, 32, "model.conditioning=adaln, only for model.conditioning=token"),
    ("huggingface", {"attention": "cosine"}, 32, "model.attention=cosine, only for model.attention=dot_product"),
    (
        "huggingface",
        {"position_encoding": "learned"},
        32,
        "model.position_encoding=learned, only for model.position_encoding=rope_2d or model.position_encoding=rope_1d",
    ),
    ("llama", {"position_encoding": "rope_1d"}, 32, "model.subtokens=2, only for model.subtokens=1"),
    ("llama", {"subtokens": 1}, 32, "model.position_encoding=rope_2d, only for model.position_encoding=rope_1d"),
    ("llama", {"subtokens": 1, "position_encoding": "rope_1d", "qk_norm": True}, 32, "model.qk_norm=true, only for"),
    ("llama", {"subtokens": 1, "position_encoding": "rope_1d", "rope_grid": 2}, 32, "model.rope_grid=2, only for"),
]


@pytest.mark.parametrize(("target", "options", "image_size", "reason"), REFUSED)
def test_what_a_format_has_no_place_for(
    target: Target, options: dict[str, Any], image_size: Any, reason: str, tmp_path: Path
) -> None:
    model = describe("plain", **options)
    elm = ELM(layer_specs(model, Grid(4, 4) if image_size == 32 else GRID))
    write_run(tmp_path / "run", elm, model, image_size)
    message = rf"^--to {target} has no place for a model of {reason}.*; use --to safetensors, which holds every model$"
    with pytest.raises(CheckpointError, match=message):
        export_run(tmp_path / "run", tmp_path / "out", target)
    assert not (tmp_path / "out").exists()


def test_the_command_says_so_and_ends_as_wrong_input(tmp_path: Path) -> None:
    model = describe("adaptive")
    write_run(tmp_path / "run", build(model), model, OBLONG)
    said = refused("export", str(tmp_path / "run"), "--to", "official", "--out", str(tmp_path / "out"))
    assert "error: --to official has no place for a model of model.conditioning=adaln" in said
