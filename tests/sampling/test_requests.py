import pytest

from elm_dist.sampling.requests import ImageRequest, list_batches, list_requests


def test_no_two_images_share_a_seed() -> None:
    requests = list_requests(list(range(1000)), 50)
    seeds = {request.seed(seed) for request in requests for seed in (0, 1)}
    assert len(seeds) == 100_000
    assert len({request.path for request in requests}) == 50_000


def test_every_stretch_has_all_classes_alike() -> None:
    requests = list_requests(list(range(1000)), 50)
    for begin in range(0, 50_000, 5_000):  # the inception score is a mean over these
        labels = [request.label for request in requests[begin : begin + 5_000]]
        assert {labels.count(label) for label in (0, 1, 500, 999)} == {5}


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_processes_share_the_batches_of_one(world_size: int) -> None:
    requests = [ImageRequest(label, index) for index in range(3) for label in range(5)]
    shares = [list_batches(requests, 4, rank, world_size) for rank in range(world_size)]
    batches = [batch for share in shares for batch in share]
    assert sorted(batches, key=lambda batch: requests.index(batch[0])) == list_batches(requests, 4)
    assert [len(batch) for batch in list_batches(requests, 4)] == [4, 4, 4, 3]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
