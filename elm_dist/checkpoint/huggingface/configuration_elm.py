"""What makes an ELM: a Llama of the same sizes, and the grid, the sub-tokens and the classes of its images."""

from transformers import LlamaConfig


class ELMConfig(LlamaConfig):
    """The architecture, and how the authors draw from it.

    `vocab_size` is that of one sub-token. As an input id `vocab_size + label` stands for a class, and `vocab_size +
    num_classes` for none, which is the null class of classifier-free guidance.
    """

    model_type = "elm"

    grid: list[int] | tuple[int, ...] = (16, 16)  # rows and columns of an image's codes
    scan: list[int] | tuple[int, ...] | None = None  # which cell comes at each position; None = row by row
    position_encoding: str = "rope_2d"  # of row and column; or rope_1d, of the position in the sequence
    position_scale: float = 1.0  # how much nearer to each other positions are than their numbers say
    qk_norm: bool = False  # queries and keys have an RMS norm each
    subtokens: int = 1  # of each code, drawn together and independently of each other
    num_classes: int = 1000
    cfg_scale: float = 4.0  # what classifier-free guidance grows to ...
    cfg_schedule: str = "linear"  # ... along one of modeling_elm.SCHEDULES
    cfg_interval: list[float] | tuple[float, ...] = (0.0, 1.0)  # share of positions from and up to which it is on
    rms_norm_eps: float = 1e-5
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None  # every image has as many codes: none ends it

    @property
    def positions(self) -> int:
        return self.grid[0] * self.grid[1]
