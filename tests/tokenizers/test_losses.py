"""The reconstruction loss: its value, its parts, its gradient."""

import torch

from elm_dist.tokenizers.losses import reconstruction_loss


def test_it_is_the_mean_absolute_error() -> None:
    images = torch.tensor([0.0, 0.5, 1.0]).expand(2, 3, 4, 3)
    reconstruction = (images + torch.tensor([0.3, -0.1, 0.2])).requires_grad_()
    total, parts = reconstruction_loss(reconstruction, images)
    torch.testing.assert_close(total, torch.tensor(0.2))
    total.backward()
    torch.testing.assert_close(
        reconstruction.grad * reconstruction.numel(), torch.tensor([1.0, -1, 1]).expand(2, 3, 4, 3)
    )
    assert list(parts) == ["l1"]
    assert parts["l1"] == total
