import pytest
import torch

from elm_dist.devices import own_device


def test_processes_without_gpus_share_the_cpu() -> None:
    assert [own_device("cpu", rank) for rank in range(3)] == [torch.device("cpu")] * 3


@pytest.mark.gpu
def test_each_process_has_a_gpu_of_its_own_while_there_are_enough() -> None:
    count = torch.cuda.device_count()
    devices = [own_device("auto", rank) for rank in range(count + 1)]
    assert devices == [*(torch.device("cuda", rank) for rank in range(count)), torch.device("cuda", 0)]
