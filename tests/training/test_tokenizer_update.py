"""One update: which parts the loss has and when, who learns from which, and what is refused before any work."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from skimage import data
from torch import Tensor, nn

from elm_dist.config import Config
from elm_dist.config_file import load_config
from elm_dist.errors import TokenizerError
from elm_dist.parallel.replicas import Replicas
from elm_dist.tokenizers.perceptual import PerceptualLoss
from elm_dist.training.tokenizer_state import TokenizerState, build_state, load_state, save_state
from elm_dist.training.tokenizer_trainer import train_tokenizer
from elm_dist.training.tokenizer_update import update

CPU = torch.device("cpu")


def build_config(*overrides: str) -> Config:
    settings = [
        "tokenizer.base_channels=32",
        "tokenizer.embedding_channels=32",
        "tokenizer_training.adversarial_weight=0.5",
        "tokenizer_training.adversarial_from=1",
        "tokenizer_training.warmup_steps=0",
        "tokenizer_training.batch_size=4",
        "parallel.device=cpu",
    ]
    return load_config("configs/demo.yaml", [*settings, *overrides])


@pytest.fixture
def images() -> Tensor:
    tiles = torch.from_numpy(data.astronaut()[:64, :64].reshape(2, 32, 2, 32, 3).swapaxes(1, 2).reshape(4, 32, 32, 3))
    return tiles.permute(0, 3, 1, 2).float() / 255


def weights(net: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in net.parameters()]


def are_equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def run(state: TokenizerState, images: Tensor, config: Config, count: int) -> list[dict[str, float]]:
    return [update(state, images, config, Replicas()) for _ in range(count)]


@pytest.mark.parametrize("settings", [[], ["tokenizer_training.diff_augment=true"], ["parallel.precision=bf16"]])
def test_the_discriminator_starts_at_its_step(images: Tensor, settings: list[str]) -> None:
    config = build_config(*settings)
    state = build_state(config, CPU, Replicas())
    assert state.critic is not None
    before = weights(state.critic.net)
    assert run(state, images, config, 1)[0].keys() == {"loss", "l1"}
    assert are_equal(weights(state.critic.net), before)
    parts = run(state, images, config, 1)[0]
    assert parts.keys() == {"loss", "l1", "adversarial", "discriminator"}
    assert parts["loss"] == pytest.approx(parts["l1"] + parts["adversarial"])
    assert parts["discriminator"] == pytest.approx(1, abs=0.3)  # it cannot tell them apart yet
    assert not are_equal(weights(state.critic.net), before)


def test_the_tokenizer_learns_from_the_discriminator(images: Tensor) -> None:
    alone, judged = build_config("tokenizer_training.adversarial_weight=0"), build_config()
    states = [build_state(config, CPU, Replicas()) for config in (alone, judged)]
    assert states[0].critic is None
    assert are_equal(weights(states[0].tokenizer), weights(states[1].tokenizer))
    for state, config in zip(states, (alone, judged), strict=True):
        run(state, images, config, 1)
    assert are_equal(weights(states[0].tokenizer), weights(states[1].tokenizer))
    for state, config in zip(states, (alone, judged), strict=True):
        run(state, images, config, 1)
    assert not are_equal(weights(states[0].tokenizer), weights(states[1].tokenizer))


def test_the_discriminator_gets_better(images: Tensor) -> None:
    config = build_config("tokenizer_training.adversarial_from=0")
    parts = run(build_state(config, CPU, Replicas()), images, config, 12)
    assert parts[-1]["discriminator"] < 0.5 < parts[0]["discriminator"]


def test_perceptual_and_squared_errors_are_parts(images: Tensor) -> None:
    config = build_config("tokenizer_training.reconstruction=l2", "tokenizer_training.perceptual_weight=2")
    state = build_state(config, CPU, Replicas())
    state.perceptual = PerceptualLoss(nn.Sequential(nn.Conv2d(3, 4, 3)), (0,))
    parts = run(state, images, config, 1)[0]
    assert parts.keys() == {"loss", "l2", "perceptual"}
    assert parts["loss"] == pytest.approx(parts["l2"] + parts["perceptual"])


def test_a_discriminator_that_is_new_starts_beside_an_old_tokenizer(tmp_path: Path, images: Tensor) -> None:
    alone, judged = build_config("tokenizer_training.adversarial_weight=0"), build_config()
    state = build_state(alone, CPU, Replicas())
    run(state, images, alone, 2)
    save_state(tmp_path, state)
    resumed = build_state(judged, CPU, Replicas())
    load_state(tmp_path, resumed)
    assert resumed.step == 2
    assert are_equal(weights(resumed.tokenizer), weights(state.tokenizer))
    assert "discriminator" in run(resumed, images, judged, 1)[0]


def test_a_discriminator_is_saved_with_its_moments(tmp_path: Path, images: Tensor) -> None:
    config = build_config()
    state = build_state(config, CPU, Replicas())
    run(state, images, config, 3)
    save_state(tmp_path, state)
    resumed = build_state(config, CPU, Replicas())
    load_state(tmp_path, resumed)
    assert run(resumed, images, config, 2) == run(state, images, config, 2)
    assert resumed.critic is not None
    assert state.critic is not None
    assert are_equal(weights(resumed.critic.net), weights(state.critic.net))
    assert any(name.startswith("adam.discriminator.") for name in load_file(next(tmp_path.glob("step_*"))))


def test_missing_weights_are_reported_before_any_work(tmp_path: Path) -> None:
    config = build_config(
        "tokenizer_training.perceptual=lpips_vgg",
        f"tokenizer_training.vgg_weights={tmp_path / 'vgg.pth'}",
        f"tokenizer_training.images={tmp_path / 'none'}",
        f"tokenizer.directory={tmp_path / 'tokenizer'}",
    )
    with pytest.raises(TokenizerError, match=r"vgg\.pth: there is no such file, which must hold the weights of"):
        train_tokenizer(config)
    assert list(tmp_path.iterdir()) == []
