"""Two real processes say which faults of DeepSpeed are still there: after an upgrade, these tests tell what changed."""

import json

import pytest
from deepspeed_faults import FAULTS
from processes import WORKERS, run_processes


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bool]]:
    """Return what each of the two processes found; on CPUs, wherever this runs."""
    out = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DS_ACCELERATOR", "cpu")
        run_processes(2, [str(WORKERS / "deepspeed_faults.py"), str(out)], timeout=120)
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_fault_is_still_there(found: list[dict[str, bool]], fault: str) -> None:
    assert any(rank[fault] for rank in found), f"DeepSpeed mended this: see whether {FAULTS[fault].keeps} can go"
