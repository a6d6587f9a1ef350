"""The training door: runs alike under `deepspeed`, `torchrun` and plain `python`.

deepspeed --num_gpus 8 elm_dist/train.py --config configs/elm_l.yaml schedule.micro_batch_size=16
"""

import argparse
import logging
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if sys.path and Path(sys.path[0]).resolve() == ROOT / "elm_dist":
    sys.path[0] = str(ROOT)  # a script's own folder comes first otherwise, and hides packages of the same names

from elm_dist.config_file import load_config  # noqa: E402
from elm_dist.errors import ElmError  # noqa: E402
from elm_dist.parallel.environment import process_environment  # noqa: E402
from elm_dist.training.preemption import exit_on_stop_signals, ignore_stop_signals  # noqa: E402


def main() -> int:
    """Train and return the exit code: 0 done or stopped as told, 1 failed, 2 wrong input."""
    parser = argparse.ArgumentParser(description="Train an ELM.")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "elm_l.yaml", help="a file of configs/")
    parser.add_argument("--local_rank", type=int, help="set by the deepspeed launcher; the environment has it too")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings laid over the file")
    arguments = parser.parse_args()
    code = run(arguments.config, arguments.overrides)
    ignore_stop_signals()  # nothing is left to save: what comes now shall not change the exit code
    return code


def run(config_path: Path, overrides: list[str]) -> int:
    """Train what `config_path` describes with `overrides` and return the exit code."""
    is_main = True
    try:
        environment = process_environment()
        is_main = environment.is_main
        logging.basicConfig(level=logging.INFO if is_main else logging.WARNING, format="%(message)s")
        config = load_config(config_path, overrides)
        environment.choose_device(config.parallel.device)
        from elm_dist.training.trainer import train  # heavy: after the configuration is known to be right

        train(config, environment)
    except ElmError as error:
        if not is_main:
            # A launcher ends all processes when the first one fails: the main process speaks for all, and each ends
            # with its own code, which `srun` reports.
            exit_on_stop_signals(error.exit_code)
            time.sleep(15)  # it may start that much later
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
