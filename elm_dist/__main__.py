"""`python -m elm_dist` is `elm`, for launchers that start modules: `torchrun --nproc_per_node 8 -m elm_dist ...`."""

from elm_dist.cli.main import main

main()
