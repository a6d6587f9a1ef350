"""The page of `elm serve`: a form and pictures, in the browser of whoever sits at this machine.

The one module that imports gradio. It lays out and passes on; `studio.py` draws. Nothing leaves the machine: it listens
on the loopback address alone, sends no statistics, and its fonts and scripts come from here.
"""

import contextlib
import html
import os
import random
import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, get_args

from elm_dist.config import SamplingConfig
from elm_dist.errors import ElmError
from elm_dist.model.cost import count_parameters
from elm_dist.sampling.page_parts import CSS, EMPTY, pictures_html, sentence_html
from elm_dist.sampling.studio import MOST, Drawing, Studio

try:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware
except ModuleNotFoundError as error:
    raise ElmError(f"`elm serve` needs {error.name}, which is not installed; pip install 'elm-dist[serve]'") from None

HOST = "127.0.0.1"
MOST_GUIDANCE = 12  # unless the run has more
LARGEST = 4  # sides of an expanded picture, in sides of an image
SEEDS = 10**6  # to choose a new one from
PORT = 7860  # where one expects such a page; if it is taken, another
GOODBYE_SECONDS = 1  # for browsers that hold a connection when the server is told to stop
SETTINGS = ("cfg_schedule", "cfg_scale", "temperature", "top_k", "top_p")  # in the order of `_settings`


class Tab(NamedTuple):
    """A form of its own: what it asks for, which buttons it has, and who draws."""

    fields: list[Any]
    start: gr.Button
    stop: gr.Button
    draw: Callable[..., Drawing]  # gets the values of `fields`, the seed, and what else `_settings` has


def serve(studio: Studio, port: int | None, announce: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C; `announce` gets its address. Raises ElmError for a port that is taken.

    Without `port` it is 7860, or any that is free.
    """
    with listen(port) as listener:
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        # A page from elsewhere, in the same browser, must not get here by a name of its own that leads to this machine.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
        gr.mount_gradio_app(
            app,
            build_page(studio),
            path="",
            css=CSS,
            theme=_theme(),
            footer_links=[],
            show_error=False,  # of an error of ours the terminal says more
            # Each of these could be switched on by a variable of the environment.
            enable_monitoring=False,
            mcp_server=False,
            run_history=False,
            ssr_mode=False,
        )
        announce(f"http://{HOST}:{listener.getsockname()[1]}")
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GOODBYE_SECONDS)
        try:
            with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again when it has shut down
                uvicorn.Server(config).run(sockets=[listener])
        finally:
            studio.close()


def listen(port: int | None) -> socket.socket:
    """Return a socket that listens on the loopback address; raises ElmError if `port` is taken."""
    for candidate in (PORT, 0) if port is None else (port,):
        try:
            return socket.create_server((HOST, candidate))
        except OSError as error:
            reason = os.strerror(error.errno or 0)
    raise ElmError(f"--port: {HOST}:{port} cannot be used ({reason}); give another one, or leave it out for a free one")


def build_page(studio: Studio) -> gr.Blocks:
    """Return the page, laid out and wired."""
    with gr.Blocks(title=f"elm · {studio.run}", analytics_enabled=False) as page:
        gr.HTML(f'<h1>{html.escape(str(studio.run))}</h1><p class="elm-facts">{html.escape(describe(studio))}</p>')
        with gr.Row():
            with gr.Column(scale=2, min_width=340):
                with gr.Tabs():
                    tabs = [_sample_tab(studio), _expand_tab(studio), _interpolate_tab(studio)]
                seed, settings = _settings(studio.painter.config.sampling)
            with gr.Column(scale=5, min_width=340):
                view = gr.HTML(EMPTY)
                command = gr.Textbox(
                    label="The same from the command line",
                    lines=2,
                    max_lines=4,
                    interactive=False,
                    buttons=["copy"],
                    elem_classes="elm-command",
                )
        drawings: dict[str, Drawing] = {}
        for tab in tabs:
            tab.start.click(
                _answer(tab, drawings),
                [*tab.fields, seed, *settings],
                [view, command],
                show_progress="hidden",
                concurrency_limit=1,
                concurrency_id="painter",
                api_visibility="private",
            )
            tab.stop.click(_stop(drawings), queue=False, show_progress="hidden", api_visibility="private")
    return page


def describe(studio: Studio) -> str:
    """Return a line on what the page draws with."""
    painter = studio.painter
    tokenizer, model = painter.config.tokenizer, painter.config.model
    return " · ".join(
        [
            f"step {painter.step:,}",
            f"{count_parameters(model, tokenizer.grid):,} parameters",
            f"{tokenizer.image_size} pixels as {tokenizer.grid} codes of {model.subtokens}-{model.subtoken_bits} bits",
            str(painter.device),
        ]
    )


def _sample_tab(studio: Studio) -> Tab:
    with gr.Tab("Draw"):
        fields = [_classes(studio), gr.Slider(1, MOST, 8, step=1, label="Images of each")]
        return Tab(fields, *_buttons("Draw"), studio.sample)


def _expand_tab(studio: Studio) -> Tab:
    tokenizer = studio.painter.config.tokenizer
    (height, width), cell = tokenizer.image_size, tokenizer.downsampling
    with gr.Tab("Expand"):
        fields: list[Any] = [_classes(studio), gr.Slider(1, MOST, 1, step=1, label="Pictures of each")]
        for label, side, pixels in (("Height", height, height), ("Width", width, 3 * width)):
            fields.append(gr.Slider(side, LARGEST * side, pixels, step=cell, label=f"{label} in pixels"))
        overlap, most = min(tokenizer.grid) // 2 * cell, min(height, width) - cell
        fields.append(gr.Slider(cell, most, overlap, step=cell, label="Overlap of windows in pixels"))
        return Tab(fields, *_buttons("Expand"), studio.expand)


def _interpolate_tab(studio: Studio) -> Tab:
    with gr.Tab("Interpolate"):
        with gr.Row():
            fields: list[Any] = [
                _classes(studio, f"{end} class", label) for label, end in enumerate(("First", "Second"))
            ]
        with gr.Row():
            fields += [gr.Number(5, label="Mixtures", min_width=80), gr.Number(2, label="Rows", min_width=80)]
        return Tab(fields, *_buttons("Interpolate"), studio.interpolate)


def _classes(studio: Studio, label: str = "Classes", chosen: int | None = None) -> gr.Dropdown:
    """Return a choice of several classes, the first one chosen, or of one class, which `chosen` is."""
    choices: Any = [(name, number) for number, name in enumerate(studio.class_names)]
    return gr.Dropdown(
        choices,
        value=[0] if chosen is None else min(chosen, len(choices) - 1),
        multiselect=chosen is None,
        label=label,
        min_width=80,
    )


def _buttons(start: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        return gr.Button(start, variant="primary", scale=3, min_width=80), gr.Button("Stop", min_width=60)


def _settings(own: SamplingConfig) -> tuple[gr.Number, list[Any]]:
    """Return the fields that all drawings have: the seed, and those of `SETTINGS` in their order."""
    with gr.Group():
        new = gr.Button("new", size="sm")
        seed = gr.Number(0, label="Seed", buttons=[new])
        new.click(lambda: random.randrange(SEEDS), None, seed, show_progress="hidden", api_visibility="private")
        most = max(MOST_GUIDANCE, own.cfg_scale)
        schedules = get_args(SamplingConfig.model_fields["cfg_schedule"].annotation)
        schedule = gr.Dropdown(list(schedules), value=own.cfg_schedule, label="Guidance schedule")
        scale = gr.Slider(1, most, own.cfg_scale, step=0.1, label="Guidance scale (1 = none)")
        with gr.Row():
            temperature = gr.Number(own.temperature, label="Temperature", step=0.05, min_width=80)
            top_k = gr.Number(own.top_k, label="Top-k", min_width=80)
            top_p = gr.Number(own.top_p, label="Top-p", step=0.05, min_width=80)
    return seed, [schedule, scale, temperature, top_k, top_p]


def _answer(tab: Tab, drawings: dict[str, Drawing]) -> Callable[..., Iterator[Any]]:
    """Return what a click on `start` does: turn the values of all fields into a drawing, and its frames into HTML.

    While it is drawn, it is that of its page in `drawings`.
    """
    count = len(tab.fields)

    def answer(request: gr.Request, *values: Any) -> Iterator[Any]:
        own, seed, settings = values[:count], values[count], values[count + 1 :]
        try:
            drawing = tab.draw(*own, seed, dict(zip(SETTINGS, settings, strict=True)))
        except ElmError as error:
            yield sentence_html(str(error)), ""
            return
        page = request.session_hash or ""
        drawings[page] = drawing
        for frame in drawing.frames:
            yield gr.skip() if frame is None else (pictures_html(frame, drawing), drawing.command)
        drawings.pop(page, None)

    return answer


def _stop(drawings: dict[str, Drawing]) -> Callable[[gr.Request], None]:
    """Return what a click on `stop` does. Gradio's own way to cancel loses what is asked for right after it."""

    def stop(request: gr.Request) -> None:
        if drawing := drawings.get(request.session_hash or ""):
            drawing.stop.set()

    return stop


def _theme() -> gr.themes.Base:
    """Return gradio's own look, calmer, and in fonts that every machine has."""
    return gr.themes.Default(
        primary_hue="teal", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["monospace"]
    )
