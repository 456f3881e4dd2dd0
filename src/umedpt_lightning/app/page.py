"""The page in gradio: what stands where, and which question a click asks."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from umedpt_lightning.app.service import AppService, Query

CSS = Path(__file__).with_name("page.css")
HINT = '<p class="u-hint">Drop an image, tick what you want to know of it, and press “Show”.</p>'
#: Seconds between looks for images that were uploaded to the temporary folder, and their age when they are removed.
_CLEAN = (600, 3600)


def build(service: AppService, title: str) -> gr.Blocks:
    """The page of a model of that name, whose questions the service answers."""
    specs = {name: service.model.task(name).spec for name in service.model.tasks if service.model.task(name).predicts}
    choices = [(f"{name} ({spec.phrase})", name) for name, spec in specs.items()]
    page: gr.Blocks
    with gr.Blocks(title=f"{title} · umedpt", fill_width=True, analytics_enabled=False, delete_cache=_CLEAN) as page:
        gr.HTML(
            f'<div class="u-head"><h1>{escape(title)}</h1><p>A research model, not for diagnosis. Images stay on '
            "the machine where this page runs.</p></div>"
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                bags = sorted({spec.bag for spec in specs.values() if spec.bag})
                several = f", or all of a {' or '.join(bags)}" if bags else ""
                file = gr.File(
                    label=f"Image: PNG, JPEG, TIFF or DICOM{several}", height=170, elem_id="u-file",
                    file_count="multiple" if bags else "single",
                )  # fmt: skip
                tasks = gr.CheckboxGroup(
                    choices,
                    value=[*specs] if len(specs) == 1 else [],
                    label="Tasks",
                    elem_id="u-tasks",
                    info="A task answers whatever the image shows: choose those that it belongs to.",
                )
                score = gr.Slider(
                    0.05, 0.95, Query.least_score, step=0.05, label="Least score of a box",
                    visible=any(spec.form == "objects" for spec in specs.values()),
                )  # fmt: skip
                stretch = gr.Checkbox(
                    label="Stretch intensities",
                    info="To the range that a task was trained on, for files of another bit depth.",
                )
                near = gr.Checkbox(True, label="Nearest samples", visible=service.samples is not None)
                button = gr.Button("Show", variant="primary", elem_id="u-show")
                preview = gr.HTML(elem_id="u-preview")
            with gr.Column(scale=5, min_width=480):
                answers = gr.HTML(HINT, elem_id="u-answers")

        def show(file: str | list[str] | None, tasks: list[str], score: float, stretch: bool, near: bool) -> str:
            return service.answers(file, Query(tasks, score, stretch, near))

        options: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
        # answers for another image must not stay beside a new one; at once, so that later ones are not overwritten
        file.change(lambda: HINT, None, answers, queue=False, **options)
        file.change(service.preview, file, preview, **options)
        gr.on([button.click, score.release], show, [file, tasks, score, stretch, near], answers, **options)
    return page


def theme() -> gr.themes.Base:
    """Colours with contrast enough for small text, and the machine's own fonts: others would be fetched."""
    font = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    found = gr.themes.Default(primary_hue="blue", font=font, font_mono=["ui-monospace", "Consolas", "monospace"])
    subdued = {"body_text_color_subdued": "*neutral_600", "block_info_text_color": "*neutral_600"}
    return found.set(**subdued, **{f"{name}_dark": "*neutral_300" for name in subdued})
