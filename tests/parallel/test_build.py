"""What is refused when a run's processes join."""

import pytest
from deepspeed import get_accelerator
from test_layout import TINY

from elm_dist.config_file import load_config
from elm_dist.errors import LayoutError
from elm_dist.parallel.build import connect
from elm_dist.parallel.environment import process_environment


@pytest.mark.skipif(get_accelerator().is_fp16_supported(), reason="this machine trains in fp16")
def test_fp16_where_it_is_not_supported_is_refused() -> None:
    config = load_config(TINY, ["parallel.precision=fp16"])
    with pytest.raises(LayoutError, match=r"precision=fp16, but this cpu does not train in fp16; set parallel\.prec"):
        connect(config, process_environment())
