"""A web page for a detector: drop an image, see the verdict and its reasons, move the threshold."""

from __future__ import annotations

import html
import math
import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from dassl.utils.errors import InputError
from detector import Detector
from detector.verdicts import Verdict
from ood.region_maps import region_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PORT = 7860
MOST = 5  # classes with a probability on the page
NAMED = 40  # classes that the page names
COLOURS = {"ID": "#1a7f37", "OOD": "#b34700", "": "#57606a"}
BADGE = (
    '<div id="verdict" style="border-left: 8px solid {0}; padding: 2px 14px">'
    '<div style="color: {0}; font-size: 1.6em; font-weight: bold">{1}</div>{2}</div>'
)
CSS = "input[type=number] { width: 9em !important }"  # room for the nine digits of a threshold
NO_THRESHOLD = "No verdict without a threshold: start the page with --calibrate FOLDER."


def serve(detector: Detector, port: int = PORT) -> None:
    """Serve the page to browsers on this machine; raise InputError if the port is taken."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
    import gradio as gr

    page = _layout(gr, Page(detector))
    theme = gr.themes.Default(font="sans-serif", font_mono="monospace")  # no download of fonts
    options = {"quiet": True, "prevent_thread_lock": True, "footer_links": [], "css": CSS}
    try:
        _, url, _ = page.launch(server_port=port, theme=theme, **options)
    except (OSError, OverflowError) as error:
        raise InputError(f"port {port} is taken or not allowed: choose another --port") from error
    print(f"The page is at {url} (Ctrl-C ends it)", flush=True)
    page.block_thread()


class Page:
    """The content of the page: verdict, histogram, probabilities and region map of an image."""

    def __init__(self, detector: Detector):
        self.detector, self.spec = detector, detector.spec
        self.id_scores = self.spec.id_scores.get(self.spec.score)  # sorted
        # The shortest decimal number that is the same float32.
        self.limit = detector.threshold and float(str(np.float32(detector.threshold.value)))

    def answer(self, path: str | None, limit: float) -> tuple:
        """Return the verdict on an image, its badge and histogram, probabilities, region map."""
        if not path:
            return None, *self.judge(None, limit), None, None
        detector = self.detector
        ((_, (error,), scored),) = detector.score_images([path], [self.spec.score])
        if error:
            reason = html.escape(error.replace(path, Path(path).name))
            badge = BADGE.format(COLOURS[""], "No image", reason)
            return None, badge, self.judge(None, limit)[1], None, None
        (verdict,) = detector.judge([path], [error], scored)
        p = (detector.model.scale * scored.cosines[0]).softmax(dim=-1).tolist()
        has_regions = bool(detector.model.clip.grid)
        regions = region_figure([detector.region_map(path, verdict.label)]) if has_regions else None
        probabilities = dict(zip(self.spec.classnames, p, strict=True))
        return verdict, *self.judge(verdict, limit), probabilities, regions

    def judge(self, verdict: Verdict | None, limit: float) -> tuple[str, Figure | None]:
        """Return the badge and the histogram with `limit` as the threshold."""
        if self.limit is None:
            return self._badge(verdict, "", NO_THRESHOLD), None
        limit = np.float32(limit)
        side = "" if verdict is None else "ID" if verdict.score >= limit else "OOD"
        kept = np.mean(self.id_scores >= limit)
        text = f"The threshold {limit:.6g} keeps {kept:.1%} of the held-out ID images."
        return self._badge(verdict, side, text), self._histogram(verdict, limit)

    def _badge(self, verdict: Verdict | None, side: str, text: str) -> str:
        if verdict is None:
            return BADGE.format(COLOURS[""], "Drop an image", text)
        name = html.escape(verdict.classname)
        head = f"{side or 'Most similar'}: {name}" if side != "OOD" else "OOD: none of the classes"
        facts = (
            f"{self.spec.score} is {verdict.score:.6g}. Most similar class: {name}, with "
            f"probability {verdict.probability:.1%} if it is one of them. "
        )
        return BADGE.format(COLOURS[side], head, facts + text)

    def _histogram(self, verdict: Verdict | None, limit: float) -> Figure:
        """Draw the scores of held-out ID images, the threshold and the image's own score."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.5, 2.8), dpi=150, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.15, h_pad=0.1)
        axes = figure.subplots()
        axes.yaxis.get_major_locator().set_params(integer=True)
        scores = self.id_scores.astype(np.float64)  # 40 bins may be narrower than float32 resolves
        axes.hist(scores, bins=40, color="#9fb6cd", label="held-out ID images")
        axes.axvline(limit, color="black", ls="--", label=f"threshold {limit:.6g}")
        if verdict:
            colour = COLOURS["ID" if verdict.score >= limit else "OOD"]
            axes.axvline(verdict.score, color=colour, lw=3, label=f"this image {verdict.score:.6g}")
        axes.set(xlabel=f"{self.spec.score} (higher = more in-distribution)", ylabel="images")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
        return figure

    @property
    def slider(self) -> tuple[float, float, float]:
        """Return lowest and highest threshold, a margin beyond the ID scores, and the step."""
        if self.limit is None:
            return 0.0, 1.0, 0.1
        low, high = float(self.id_scores[0]), float(self.id_scores[-1])
        margin = (high - low) / 4 or 1e-3
        digits = 3 - math.floor(math.log10(high - low + 2 * margin))  # about 1,000 to 10,000 steps
        return round(low - margin, digits), round(high + margin, digits), 10.0**-digits


def _layout(gr: ModuleType, page: Page) -> Any:
    """Lay out the page and connect its events."""
    names, (low, high, step) = page.spec.classnames, page.slider
    shown = [*names[:NAMED], f"and {len(names) - NAMED:,} more"] if names[NAMED:] else names
    badge, histogram = page.judge(None, page.limit)
    with gr.Blocks(title="ID or OOD?", analytics_enabled=False) as blocks:
        verdict = gr.State()
        gr.Markdown("## Is it one of the classes?\n" + html.escape(", ".join(shown)))
        with gr.Row():
            with gr.Column():
                sources = ["upload", "clipboard"]
                picture = gr.Image(type="filepath", sources=sources, label="Image", height=380)
                # The detector reads the file itself, to report what is wrong with it.
                picture.preprocess = lambda upload: upload and upload.path
                badge = gr.HTML(badge)  # here, so that it follows the image on a phone's one column
            with gr.Column():
                with gr.Column(visible=page.limit is not None):
                    histogram = gr.Plot(histogram, show_label=False, format="png")
                    limit = gr.Slider(low, high, page.limit or 0, step=step, label="Threshold")
                label = "Probabilities among the classes"
                probabilities = gr.Label(label=label, num_top_classes=MOST, show_heading=False)
        has_regions = bool(page.detector.model.clip.grid)
        regions = gr.Plot(show_label=False, format="png", visible=has_regions)
        outputs = [badge, histogram]
        # One event at a time: a late answer to the slider would restore a removed image's verdict.
        queue = {"concurrency_id": "page"}
        everything = [verdict, *outputs, probabilities, regions]
        picture.change(page.answer, [picture, limit], everything, **queue)
        limit.change(page.judge, [verdict, limit], outputs, show_progress="hidden", **queue)
    return blocks
