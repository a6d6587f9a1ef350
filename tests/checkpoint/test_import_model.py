"""Published weights as a run: bit-equal, sampled, measured and exported like any other, and refused where odd."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import elm, refused
from golden_models import GOLDEN, load_golden_elm
from one_process import OneProcess, Tensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from elm_dist.analysis.run_loss import evaluate_run
from elm_dist.checkpoint.export import export_run
from elm_dist.checkpoint.model import load_model
from elm_dist.checkpoint.run_folder import choose_checkpoint, load_run_config
from elm_dist.checkpoint.store import CheckpointStore
from elm_dist.checkpoint.tokenizer import save_tokenizer
from elm_dist.codes.packing import pack_bits, subtokens_to_bits
from elm_dist.config import CheckpointConfig
from elm_dist.config_file import load_config
from elm_dist.errors import CheckpointError
from elm_dist.model.elm import DECODERS, ELM
from elm_dist.sampling.painter import load_painter
from elm_dist.tokenizers.bae import BAE

TINY = Path(__file__).parents[1] / "tiny_run.yaml"
HEADS = {"ar_1-6": 4, "ar_2-5": 2, "mlm_1-6": 2}
POSITIONS = "pos_embed.weight"


def weights(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{name}.weights.safetensors")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """Of 4 x 4 codes of 10 bits."""
    return write_tokenizer(tmp_path / "tokenizer", 10)


def write_tokenizer(folder: Path, bits: int) -> Path:
    config = load_config(TINY).tokenizer.model_copy(update={"code_bits": bits})
    save_tokenizer(folder, BAE(config), config)
    return folder


def imported(file: Path, run: Path, tokenizer: Path, *options: str) -> str:
    result = elm("import", str(file), "--out", str(run), "--tokenizer", str(tokenizer), "--heads", "2", *options)
    assert result.code == 0, result.stderr
    return result.stdout


def averaged_and_raw(run: Path) -> tuple[ELM, ELM]:
    config, checkpoint = load_run_config(run), choose_checkpoint(run, None)
    return load_model(checkpoint, config, "ema"), load_model(checkpoint, config, "raw")


@pytest.mark.parametrize("name", HEADS)
def test_published_weights_come_in_and_go_out_bit_by_bit(name: str, tmp_path: Path) -> None:
    golden, model, expected, grid = load_golden_elm(name)
    bits = model.subtokens * model.subtoken_bits
    tokenizer, source, run = write_tokenizer(tmp_path / "tokenizer", bits), weights(name), tmp_path / "run"
    torch.save(source, tmp_path / "elm.pth")
    said = imported(tmp_path / "elm.pth", run, tokenizer, "--heads", str(HEADS[name]))
    assert f"{sum(t.numel() for t in golden.state_dict().values()):,} parameters of {model.modelling} mod" in said
    assert f"2 layers of 64, {HEADS[name]} heads, {model.subtokens}-{model.subtoken_bits} codes" in said
    config = load_run_config(run)
    assert (config.model, config.tokenizer.grid) == (model, grid)
    for loaded in averaged_and_raw(run):
        assert all(torch.equal(tensor, golden.state_dict()[name]) for name, tensor in loaded.state_dict().items())
        torch.testing.assert_close(logits(loaded, expected), expected["logits"], rtol=0, atol=1e-5)
    export_run(run, tmp_path / "out", "official")
    assert "| training data | imported from `elm.pth` |" in (tmp_path / "out" / "README.md").read_text()
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert again.keys() == source.keys()
    unused = {POSITIONS} & source.keys()
    assert all(torch.equal(again[name], tensor.float()) for name, tensor in source.items() if name not in unused)
    assert all(again[name].shape == source[name].shape and not again[name].any() for name in unused)
    imported(tmp_path / "out" / "model.safetensors", tmp_path / "back", tokenizer, "--heads", str(HEADS[name]))
    back = averaged_and_raw(tmp_path / "back")[0].state_dict()
    assert all(torch.equal(tensor, golden.state_dict()[name]) for name, tensor in back.items())


@torch.inference_mode()
def logits(model: ELM, golden: dict[str, Tensor]) -> Tensor:
    codes, labels = golden["codes"], golden["classes"]
    if "mask" not in golden:
        bits = (golden["logits"].shape[-1] - 1).bit_length()
        return model((pack_bits(subtokens_to_bits(codes, bits).flatten(1)), labels))
    hidden = codes.masked_fill(golden["mask"], golden["logits"].shape[-1])
    return DECODERS["masked"](model, len(labels)).step((hidden, labels), 0, 0, codes.shape[1])


def test_a_training_s_file_has_averaged_weights_and_raw_ones(tmp_path: Path, tokenizer: Path) -> None:
    source = weights("ar_2-5")
    raw = {name: tensor + 1 for name, tensor in source.items()}
    moments = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}
    options = Namespace(gpt_model="GPT-L", lr=1e-4, betas=(0.9, 0.95), compile=False)
    torch.save({"model": raw, "ema": source, "opt": moments, "args": options}, tmp_path / "0010000.pt")
    imported(tmp_path / "0010000.pt", tmp_path / "run", tokenizer)
    averaged, last = averaged_and_raw(tmp_path / "run")
    assert torch.equal(averaged.head.norm.weight, source["norm.weight"].float())
    assert torch.equal(last.head.norm.weight, raw["norm.weight"].float())


def test_heads_that_a_masked_model_does_not_use_are_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    save_file(weights("mlm_1-6") | {"output.weight": torch.zeros(65, 64)}, tmp_path / "mlm.safetensors")
    imported(tmp_path / "mlm.safetensors", tmp_path / "run", write_tokenizer(tmp_path / "tokenizer", 6))
    assert "left out output.weight, pos_embed.weight, which the model does not use" in caplog.text


def test_it_draws_what_the_published_implementation_drew(tmp_path: Path, tokenizer: Path) -> None:
    imported(GOLDEN / "ar_2-5.weights.safetensors", tmp_path / "run", tokenizer)
    _, _, golden, _ = load_golden_elm("ar_2-5")
    painter = load_painter(tmp_path / "run", overrides=["sampling.top_k=1", "sampling.cfg_scale=4"])
    assert torch.equal(painter.draw(golden["classes"], [0, 1]), golden["greedy_linear"])


def test_an_imported_run_is_sampled_and_measured_like_any_other(trained: Path, tmp_path: Path) -> None:
    export_run(trained, tmp_path / "out", "official")
    published, run, data = tmp_path / "out" / "model.safetensors", tmp_path / "run", trained.parent
    imported(published, run, data / "tokenizer", "--shards", str(data / "shards"))
    ours, theirs = (evaluate_run(folder, batch_size=8).scores for folder in (run, trained))
    averaged = [name for name in ours if name.startswith("ema ")]
    assert len(averaged) >= 3
    assert [ours[name] for name in averaged] == [theirs[name] for name in averaged]
    assert elm("sample", str(run), "--classes", "0,3", "--out", str(tmp_path / "samples")).code == 0
    assert len(list((tmp_path / "samples").rglob("*.png"))) >= 2


def test_an_imported_run_cannot_go_on_and_says_what_can(tmp_path: Path, tokenizer: Path) -> None:
    imported(GOLDEN / "ar_2-5.weights.safetensors", tmp_path / "run", tokenizer)
    store = CheckpointStore(tmp_path / "run" / "checkpoints", CheckpointConfig())
    weights = averaged_and_raw(tmp_path / "run")[0].state_dict()
    training = Tensors(kinds=["weights", "ema", "exp_avg"], names=list(weights))
    training.values |= {(kind, name): tensor for kind in training.kinds for name, tensor in weights.items()}
    message = (
        rf"step_00000000 has no exp_avg, .*: it is an import, .*; begin a new run with run\.init_from={tmp_path}/run$"
    )
    with pytest.raises(CheckpointError, match=message):
        store.load(OneProcess(training))


class Code:
    """Runs something when it is unpickled, as a file from anywhere could."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("the file's code ran",))


def change(**changes: Tensor | None) -> dict[str, Tensor]:
    """Return the golden tensors 2-5 with some, by their names with _ for dots, others or none."""
    tensors = weights("ar_2-5") | {
        name.replace("__", "."): tensor for name, tensor in changes.items() if tensor is not None
    }
    return {
        name: tensor for name, tensor in tensors.items() if changes.get(name.replace(".", "__"), tensor) is not None
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda: change(output__0__weight=None),
            "transformer: output.0.weight is missing and should be (32, 64); down",
        ),
        (
            lambda: change(bias=torch.zeros(2)),
            "not those of ELM's transformer: bias is (2,) and should be absent; down",
        ),
        (
            lambda: change(layers__1__feed_forward__w1__weight=torch.zeros(128, 64)),
            "layers.1.feed_forward.w1.weight is (128, 64) and should be (256, 64)",
        ),
        (lambda: change(pos_embed__weight=torch.zeros(16, 64)), "pos_embed.weight is (16, 64) and should be absent"),
        (
            lambda: change(norm__weight=torch.ones(64, dtype=torch.int64)),
            "norm.weight is torch.int64, and weights are floating-point numbers; give the file as it was published",
        ),
        (lambda: {"model": change(), "args": Code()}, "elm.pth: this file holds code beside its tensors"),
        (
            lambda: {"a": torch.zeros(1)},
            "nothing that can be imported, it begins with a; give a file of ELM's transfor",
        ),
        (
            lambda: {"ema": change(), "model": change(bias=torch.zeros(2))},
            "not those of ELM's transformer: bias is (2,) and should be absent",
        ),
    ],
)
def test_odd_files_are_refused_in_one_sentence(
    content: Any, message: str, tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "elm.pth"
    torch.save(content(), file)
    options = ["--tokenizer", str(tokenizer), "--heads", "4"] if "begins with" not in message else []
    said = refused("import", str(file), "--out", str(tmp_path / "run"), *options)
    assert message in said
    assert said.count("\n") == 1
    assert "the file's code ran" not in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_options_that_do_not_fit_are_refused(tmp_path: Path, tokenizer: Path) -> None:
    file, out = str(GOLDEN / "ar_2-5.weights.safetensors"), ["--out", str(tmp_path / "run")]
    said = refused("import", file, *out)
    assert "this is a transformer for codes of 2 x 5 = 10 bits; say which tokenizer's they are with --tokenizer" in said
    other = write_tokenizer(tmp_path / "other", 8)
    said = refused("import", file, *out, "--tokenizer", str(other))
    assert f"and the tokenizer in {other} makes codes of 8; give the one that it was trained with" in said
    said = refused("import", file, *out, "--tokenizer", str(tmp_path))
    assert f"{tmp_path}: there is no complete tokenizer" in said
    said = refused("import", file, *out, "--tokenizer", str(tokenizer), "--heads", "3")
    assert "it cannot be a run: model.num_heads: 3 heads do not divide hidden_size 64" in said
    said = refused("import", file, *out, "--tokenizer", str(tokenizer), "--image-size", "32")
    assert "--image-size is for a tokenizer, and this is a transformer" in said
    bae = str(GOLDEN / "bae_10.weights.safetensors")
    assert "--heads are for a transformer, which this is not; omit them" in refused("import", bae, *out, "--heads", "3")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_something_is_kept(tmp_path: Path, tokenizer: Path) -> None:
    file = str(GOLDEN / "ar_2-5.weights.safetensors")
    said = refused("import", file, "--out", str(tmp_path), "--tokenizer", str(tokenizer))
    assert f"error: {tmp_path} is not empty; give a new folder" in said
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("weights")
    for name, message in {
        "text.safetensors": "text.safetensors: this file cannot be read (",
        "gone.safetensors": "gone.safetensors: this file cannot be read (",
        "gone.pth": "gone.pth: this file cannot be read (No such file or directory); give a file of weights",
    }.items():
        assert message in refused("import", str(tmp_path / name), "--out", str(tmp_path / "run"))
