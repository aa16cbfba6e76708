"""One answer of a chat as it comes in events: its text, whose each part is, and what it took. No I/O."""

from collections.abc import Collection
from typing import Any

from multispin_models.errors import MultispinError
from multispin_models.provenance import Span

__all__ = ["COLOURS", "Turn", "TurnFailed", "painted", "shown"]

COLOURS = {"accepted": "\x1b[32m", "recovered": "\x1b[33m", "bonus": "\x1b[36m"}  # green, yellow, cyan
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_CONTROLS = {code: "\ufffd" for code in [*range(32), *range(127, 160)] if chr(code) not in "\n\t"}


class TurnFailed(MultispinError):
    """An answer that did not come, or not to its end."""


class Turn:
    """What has come of an answer."""

    def __init__(self) -> None:
        self.text = ""
        self.finish_reason: str | None = None
        self.spans: list[Span] = []
        self._figures: dict[str, Any] = {}

    def take(self, event: Any) -> list[Span]:
        """Take an event; return what is to be shown of it.

        Raises:
            TurnFailed: the server says that it cannot go on, or speaks otherwise than an OpenAI-compatible one.
        """
        try:
            if "error" in event:
                raise TurnFailed(str(event["error"]["message"]))
            for name in ("usage", "timings", "energy", "metrics"):
                if event.get(name) is not None:
                    self._figures[name] = event[name]
            if not event["choices"]:
                return []
            [choice] = event["choices"]
            text = choice["delta"].get("content") or ""
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            told = [Span(span["text"], span["source"]) for span in event.get("provenance") or ()]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TurnFailed(f"the server sent an event that is none of a chat: {error!r}") from error
        spans = told or ([Span(text, "target")] if text else [])
        self.text += text
        self.spans += told
        return spans

    @property
    def result(self) -> dict[str, Any]:
        """All of it, as one object."""
        spans = [{"text": span.text, "source": span.source} for span in self.spans]
        return {"text": self.text, "finish_reason": self.finish_reason, "spans": spans, **self._figures}

    def summary(self) -> str:
        """Return what it took in a line; what the server does not tell is left out."""
        timings = self._figures.get("timings")
        if not timings:
            return f"{self.finish_reason or 'ended early'}; the server tells no timings"
        parts = [f"{timings['predicted_n']} tokens"]
        if timings.get("draft_n"):
            parts.append(f"{timings['draft_n_accepted']} of {timings['draft_n']} drafted ones accepted")
        parts.append(f"first after {timings['prompt_ms'] / 1e3:.2f} s")
        if timings.get("predicted_per_second") and timings["predicted_n"] > 1:
            parts.append(f"then {timings['predicted_per_second']:.1f} tokens/s")
        cached = timings.get("cache_n", 0)
        parts.append(f"prompt {timings['prompt_n'] + cached} tokens, {cached} of them known")
        for end, energy in (self._figures.get("energy") or {}).items():
            if energy and energy.get("joules") is not None:
                parts.append(f"{end} {energy['joules']:.2f} J ({energy['label'] or 'label not told'})")
        return ", ".join([*parts, str(self.finish_reason)])


def painted(span: Span, *, colour: bool) -> str:
    """Return a span's text for a terminal: in the colour of its source, and without what would steer the terminal."""
    text = span.text.translate(_CONTROLS)
    return f"{COLOURS[span.source]}{text}{_PLAIN}" if colour and span.source in COLOURS else text


def shown(summary: str, sources: Collection[str], *, colour: bool) -> str:
    """Return a summary for a terminal, with the colours that were used."""
    if not colour:
        return f"[{summary}]"
    legend = " ".join(f"{paint}{source}{_PLAIN}" for source, paint in COLOURS.items() if source in sources)
    return f"{_DIM}[{summary}]{_PLAIN} {legend}".rstrip()
