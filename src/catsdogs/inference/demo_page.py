"""What the demo's page says and how it looks: HTML and CSS, nothing of models or servers."""

import base64
import html
import io

from PIL import Image

__all__ = [
    "EXAMPLES_SCRIPT",
    "STYLE",
    "render_answer",
    "render_examples",
    "render_invitation",
    "render_model",
    "render_refusal",
]

_SHOWN_CLASSES = 5

# Colours and corners are variables of Gradio's theme, so that light and dark come by themselves.
STYLE = """
.gradio-container { max-width: 68rem !important; margin: 0 auto !important; }
.gradio-container .html-container { padding: 0; }
.gradio-container > .app { padding: 1rem clamp(1rem, 4vw, 2rem) 2rem !important; }
#page-head h1 { font-size: 1.75rem; font-weight: 650; line-height: 1.2; margin: .4rem 0 .3rem; }
#page-head p, .faint { color: var(--body-text-color-subdued); margin: 0; line-height: 1.5; }

/* On a phone: the photo, the answer, what else there is. On a desk: the answer beside both. */
#layout { display: grid; gap: 1.2rem; grid-template: "photo" "answer" "more" / minmax(0, 1fr); }
#photo { grid-area: photo; } #answer { grid-area: answer; } #more { grid-area: more; }
@media (min-width: 52rem) { #layout { gap: 1.2rem 2rem; grid-template: "photo answer" auto
  "more answer" 1fr / minmax(0, 5fr) minmax(0, 7fr); } }
#more input { text-overflow: ellipsis; padding-right: 1.8rem; }

.card { border: 1px solid var(--border-color-primary); border-radius: var(--block-radius);
  padding: 1.2rem; background: var(--block-background-fill); line-height: 1.5; }
.card p { margin: 0; overflow-wrap: anywhere; }
.card.empty { display: grid; place-content: center; text-align: center; min-height: 7rem;
  border-style: dashed; } .card.empty p { color: var(--body-text-color-subdued); }
@media (min-width: 52rem) { .card.empty { min-height: 28rem; } }
.card.refusal { border-left: 4px solid #c2570c; } .refusal p + p { margin-top: .4rem; }

.verdict { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 .8rem; }
.verdict .label { font-size: 2.3rem; font-weight: 700; line-height: 1.2; }
.verdict .probability { font-size: 1.4rem; color: var(--body-text-color-subdued);
  font-variant-numeric: tabular-nums; }
.card .unsure { color: #b3470a; font-weight: 500; } .dark .card .unsure { color: #f0a070; }
.bars { display: grid; grid-template-columns: minmax(0, max-content) minmax(4rem, 1fr) max-content;
  gap: .35rem .8rem; align-items: center; margin: 1rem 0 0; }
.bars dt { overflow-wrap: anywhere; } .bars dd { margin: 0; font-variant-numeric: tabular-nums;
  text-align: right; } .bars i { height: .6rem; border-radius: .3rem; background:
  linear-gradient(90deg, var(--primary-600) var(--share), var(--border-color-primary) 0); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 13rem), 1fr));
  gap: 1rem; margin-top: 1.2rem; }
.pair figure { margin: 0; } .pair img { width: 100%; height: auto; max-height: 30rem;
  object-fit: contain; object-position: left; display: block; border-radius: 6px; }
.pair figcaption { color: var(--body-text-color-subdued); font-size: .9rem; line-height: 1.4;
  margin-top: .4rem; }

.examples { display: grid; grid-template-columns: repeat(4, 1fr); gap: .5rem; margin-top: .5rem; }
.examples button { padding: 0; border: 0; border-radius: 8px; overflow: hidden; cursor: pointer;
  aspect-ratio: 1; background: none; } .examples img { width: 100%; height: 100%; margin: 0;
  object-fit: cover; display: block; } .examples button:is(:hover, :focus-visible) {
  outline: 3px solid var(--primary-600); outline-offset: 1px; }
"""

# A press on a picture of `render_examples` becomes an event with its number.
EXAMPLES_SCRIPT = """
element.addEventListener("click", (event) => {
  const pressed = event.target.closest("[data-example]");
  if (pressed) trigger("select", { number: Number(pressed.dataset.example) });
});
"""


def render_invitation():
    """What stands in the answer's place before there is one."""
    return _card("empty", "<p>Choose a photo, and the answer appears here.</p>")


def render_answer(prediction, picture, overlay, threshold):
    """A model's answer as a card: the class, how probable each is, the picture and the overlay.

    Args:
        prediction: A `catsdogs.inference.predict.Prediction` without an error.
        picture, overlay: uint8 (height, width, 3).
        threshold: An answer of a lower probability is marked as unsure.
    """
    label = html.escape(prediction.label)
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    bars = "".join(
        f"<dt>{html.escape(name)}</dt><i style='--share:{share:.1%}'></i><dd>{share:.1%}</dd>"
        for name, share in ranked[:_SHOWN_CLASSES]
    )
    unsure = (
        f"<p class=unsure>Unsure, since below {threshold:.0%}: take it as a guess.</p>"
        if prediction.probability < threshold
        else ""
    )
    rest = len(ranked) - _SHOWN_CLASSES
    others = f"<p class=faint>and {rest:,} less likely ones</p>" if rest > 0 else ""
    looked = f"Where the model looked: the warmer, the more it spoke for <b>{label}</b>"
    return _card(
        "found",
        f"<p class=verdict><span class=label>{label}</span> "
        f"<span class=probability>{prediction.probability:.1%}</span></p>{unsure}"
        f"<dl class=bars>{bars}</dl>{others}<div class=pair>"
        f"{_figure(picture, 'Your photo', 'Your photo')}"
        f"{_figure(overlay, f'Your photo, coloured where it spoke for {label}', looked)}</div>",
    )


def render_refusal(sentence):
    """Says why there is no answer."""
    return _card(
        "refusal", f"<p><b>No answer for this one.</b></p><p>{html.escape(sentence)}</p>"
        "<p class=faint>Try another photo; the page goes on.</p>",
    )  # fmt: skip


def render_model(classes, validation):
    """What the chosen model can do, in a line.

    Args:
        classes: Class names.
        validation: `metrics["validation"]` of its run, or `None` if that is unknown.
    """
    names = list(classes[:_SHOWN_CLASSES])
    more = len(classes) - _SHOWN_CLASSES
    last = f"{more:,} others" if more > 0 else names.pop()
    measured = (
        f" It was right about {validation['accuracy']:.1%} of {validation['num_images']:,} pictures"
        " that it had not learnt from."
        if validation
        else ""
    )
    known = html.escape(f"{', '.join(names)} and {last}")
    return f"<p class=faint>This model tells apart: {known}.{measured}</p>"


def render_examples(thumbnails):
    """Pictures to press, or nothing if there are none; see `EXAMPLES_SCRIPT`.

    Args:
        thumbnails: uint8 arrays (height, width, 3).
    """
    buttons = "".join(
        f"<button data-example={number} aria-label='Example {number + 1}'>"
        f"<img alt='' src='{_data_url(thumbnail)}'></button>"
        for number, thumbnail in enumerate(thumbnails)
    )
    return f"<p class=faint>Or try one of these:</p><div class=examples>{buttons}</div>" * bool(
        buttons
    )


def _card(kind, content):
    # `status`: screen readers read the answer out when it comes.
    return f"<article class='card {kind}' role=status>{content}</article>"


def _figure(pixels, description, caption):
    height, width = pixels.shape[:2]
    return (
        f"<figure><img alt='{description}' width={width} height={height} "
        f"src='{_data_url(pixels)}'><figcaption>{caption}</figcaption></figure>"
    )


def _data_url(pixels):
    """A picture inside the page itself: no file to serve, or to forget."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "jpeg", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
