import pytest

from elm_dist.monitoring.speedometer import Speedometer


def test_one_of_several_processes_writes_its_progress_as_lines(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), Speedometer("tokenizing", 1, 4) as speedometer:
        for done in (100, 150, 200):
            speedometer.show(done, 200)
    assert len(caplog.messages) == 1  # at the end, as it took less than ten seconds
    assert caplog.messages[0].startswith("process 2 of 4: 200 of 200 images, ")
    assert caplog.messages[0].endswith("images/s, 0.0 minutes left")
