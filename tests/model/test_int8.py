import torch
from torch import nn

from elm_dist.config import Grid, ModelConfig
from elm_dist.model.elm import ELM, initialize, layer_specs
from elm_dist.model.int8 import Int8Linear, quantize_blocks

TINY = ModelConfig(num_layers=2, hidden_size=64, num_heads=2, subtokens=2, subtoken_bits=5, num_classes=4)


def test_a_weight_is_off_by_half_a_step_of_its_channel_at_most() -> None:
    linear = nn.Linear(300, 50, bias=False)
    nn.init.normal_(linear.weight, generator=torch.Generator().manual_seed(0))
    linear.weight.data[7] *= 1000  # one large channel must not cost the others their precision
    linear.weight.data[8] = 0
    rounded = Int8Linear(linear)
    assert rounded.weight.dtype == torch.int8
    error = (rounded.weight * rounded.scale.unsqueeze(1) - linear.weight).abs().amax(dim=1)
    assert (error <= 0.501 * linear.weight.abs().amax(dim=1) / 127).all()
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.eye(300, dtype=dtype)
        assert rounded(x).dtype == dtype
        torch.testing.assert_close(rounded(x).T.float(), linear.weight, rtol=0.01, atol=0.02 * 4000)
        torch.testing.assert_close(rounded(x).T.float()[:7], linear.weight[:7], rtol=0.01, atol=0.02)


def test_the_blocks_alone_are_rounded() -> None:
    model = ELM(layer_specs(TINY, grid=Grid(4, 4))).eval()
    initialize(model.named_parameters(), seed=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quantize_blocks(model)
    after = model.state_dict()
    rounded = {name for name, tensor in after.items() if tensor.dtype == torch.int8}
    matrices = ("attention.qkv", "attention.output", "feed_forward.gate", "feed_forward.up", "feed_forward.down")
    assert rounded == {f"block_{index}.{matrix}.weight" for index in range(2) for matrix in matrices}
    kept = before.keys() - rounded
    assert all(torch.equal(before[name], after[name]) for name in kept)
