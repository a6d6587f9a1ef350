"""`elm expand`: pictures of any size, streamed window by window (paper, appendix). See `canvas.py` for how."""

from pathlib import Path

from elm_dist.data.images import read_image
from elm_dist.files import sha256
from elm_dist.sampling.canvas import canvas_size, expand
from elm_dist.sampling.collect import write_grid
from elm_dist.sampling.job import DrawingJob
from elm_dist.sampling.painter import check_classes
from elm_dist.sampling.picture_folder import claim_painter, draw_pictures
from elm_dist.sampling.pictures import encode_picture
from elm_dist.sampling.requests import list_requests


def expand_run(
    job: DrawingJob,
    *,
    classes: list[int],
    height: int,
    width: int,
    overlap: int | None = None,
    image: Path | None = None,
    per_class: int = 1,
) -> Path:
    """Draw `per_class` pictures of height x width pixels of each class into its folder; return the path of a grid.

    Each begins in its upper left corner with the centre of the picture in `image`, or else with the image that
    `elm sample` draws of the same class, number and seed. `overlap` of the windows is in pixels, half an image by
    default. Raises an ElmError for a class, a size or an overlap that is not allowed, an image that cannot be read, and
    what `claim_painter` raises.
    """
    config = job.load_config()
    labels = check_classes("--classes", classes, config.model.num_classes)
    size = canvas_size(config.tokenizer, height, width, overlap)
    picture = None if image is None else read_image(str(image), image)
    painter = claim_painter(
        job,
        config,
        command="expand",
        classes=",".join(map(str, labels)),
        per_class=per_class,
        height=height,
        width=width,
        overlap=size.overlap * config.tokenizer.downsampling,
        image_sha256=None if image is None else sha256(image),
    )
    requests = list_requests(labels, per_class)
    start = None if picture is None else encode_picture(painter, picture)
    draw_pictures(
        painter,
        [job.out / request.path for request in requests],
        lambda part, on_progress: expand(
            painter,
            [request.label for request in requests[part]],
            [request.seed(job.seed) for request in requests[part]],
            size,
            start=start,
            on_progress=on_progress,
        ),
        overlap=size.overlap,
        batch_size=job.batch_size,
        work="expanding",
    )
    return write_grid(job.out, labels, per_class)
