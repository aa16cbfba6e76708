"""How likely a drafted token is to be accepted: learnt from the verdicts, as they come. No I/O.

`Confidence` is one logistic regression for tokens of the draft model and one for tokens that were looked up, each
corrected with every verdict by a step of the extended Kalman filter: it knows how sure it is of its weights, so it
learns fast at first, and forgets slowly. It begins with what was measured elsewhere, and is the agent's, over all its
requests. `RequestConfidence` is one request's part: what was predicted of its guesses, and how its drafts went so far.

    confidence = Confidence()
    confidence.probability(features)        that the token is accepted if all drafted before it are
    confidence.observe(features, True)      what became of it; tokens behind a rejected one were never judged

Sources: online logistic regression by extended Kalman filter, Murphy, Machine Learning (2012), section 18.5.3; prior of
the lookup: 353 answers of SmolLM2-135M, accepted 23, 42, 54, 62 % per token at matches of 1, 2, 3, 4.
"""

import math
from collections.abc import Sequence
from operator import mul
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Confidence", "Evidence", "Features", "RequestConfidence"]

_MOST_LOGIT: Final = 6.0
_RECORD_TOKENS: Final = 20.0  # memory of a request's own record
_RECORD_PRIOR: Final = 4.0  # tokens as the agent's others went, that a request begins with


class Evidence(NamedTuple):
    """What the drafter knows of a token that it drafts.

    Attributes:
        num_matched: tokens that had matched before it, those drafted before it included; 0 for a token of the model.
        probability: of the token in the draft model's distribution; 1 for one that was looked up.
        margin: by how much it was chosen before the next best, log p and noise together, in nats; 0 if looked up.
    """

    num_matched: int = 0
    probability: float = 1.0
    margin: float = 0.0


class Features(NamedTuple):
    """What a prediction is made from.

    Attributes:
        evidence: of the token.
        record: log odds of this request's drafted tokens so far, less those of all requests; 0 for a new request.
    """

    evidence: Evidence
    record: float = 0.0


class Confidence:
    """The agent's two regressions; the order of the calls is all that they depend on."""

    def __init__(self) -> None:
        #               1, log odds of the probability, near margin, far margin, record
        self._model = _Regression([-0.5, 0.5, 1.0, 0.5, 0.5])
        #                log odds 1.25 ln(n) - 1.2 give 23, 42, 54, 63 % for n = 1, 2, 3, 4
        self._lookup = _Regression([-1.2, 1.25, 0.0, 0.7])

    def probability(self, features: Features) -> float:
        """Return the probability that a token is accepted, if all drafted before it are; above 0 and below 1."""
        regression, x = self._of(features)
        return regression.probability(x)

    def observe(self, features: Features, accepted: bool) -> None:
        """Learn from a token that was judged."""
        regression, x = self._of(features)
        regression.observe(x, accepted)

    def share_accepted(self, evidence: Evidence) -> float:
        """Return the share of accepted tokens among the judged ones of the same source, of all requests."""
        return (self._lookup if evidence.num_matched else self._model).share_accepted

    def _of(self, features: Features) -> tuple["_Regression", list[float]]:
        evidence, record = features
        if evidence.num_matched:
            length = math.log(evidence.num_matched)
            return self._lookup, [1.0, length, max(0.0, length - math.log(4.0)), record]
        odds = _log_odds(evidence.probability)
        near, far = min(evidence.margin, 1.0), math.log1p(evidence.margin)
        return self._model, [1.0, odds, near, far, record]


class RequestConfidence:
    """One request's guesses: predicted when they are made, learnt from when they are judged.

    Args:
        confidence: of the agent.
    """

    def __init__(self, confidence: Confidence) -> None:
        self._confidence = confidence
        self._guesses: dict[int, tuple[int, Features, float]] = {}  # position -> token, and what was predicted of it
        self._records = {False: _Record(), True: _Record()}  # of looked up tokens: True

    def guessed(self, position: int, token_ids: Sequence[int], evidence: Sequence[Evidence]) -> list[float]:
        """Return the probability of each guess to be accepted, if all before it are.

        Args:
            position: of the first of them in the text, prompt included.
            token_ids: guessed to stand there and behind.
            evidence: of each.
        """
        found: list[float] = []
        for place, (token, known) in enumerate(zip(token_ids, evidence, strict=True), start=position):
            record = self._records[known.num_matched > 0]
            features = Features(known, record.log_odds(self._confidence.share_accepted(known)))
            found.append(self._confidence.probability(features))
            self._guesses[place] = (token, features, found[-1])
        return found

    def judged(self, position: int, token_ids: Sequence[int], num_accepted: int) -> list[float | None]:
        """Learn from a verdict; return what had been predicted of the draft, null for what was not guessed here.

        Args:
            position: of the draft's first token in the text.
            token_ids: of the draft.
            num_accepted: of them; the next was rejected, and those behind it were not judged.
        """
        predicted: list[float | None] = []
        for index, token in enumerate(token_ids):
            guess = self._guesses.get(position + index)
            if guess is None or guess[0] != token:
                predicted.append(None)
                continue
            _, features, probability = guess
            predicted.append(probability)
            if index <= num_accepted:
                accepted = index < num_accepted
                self._confidence.observe(features, accepted)
                self._records[features.evidence.num_matched > 0].add(accepted)
        for place in [place for place in self._guesses if place < position + num_accepted]:
            del self._guesses[place]
        return predicted


class _Record:
    """How a request's own tokens went, the last ones above all."""

    def __init__(self) -> None:
        self._accepted = self._judged = 0.0

    def add(self, accepted: bool) -> None:
        keep = 1.0 - 1.0 / _RECORD_TOKENS
        self._accepted = self._accepted * keep + accepted
        self._judged = self._judged * keep + 1.0

    def log_odds(self, usual: float) -> float:
        """Return the log odds beyond the usual share."""
        share = (self._accepted + _RECORD_PRIOR * usual) / (self._judged + _RECORD_PRIOR)
        return _log_odds(share) - _log_odds(usual)


class _Regression:
    """Logistic regression whose weights are a normal distribution, narrowed by every outcome.

    Args:
        weights: to begin with.
    """

    _SPREAD: Final = 0.5  # standard deviation of each weight before the first outcome
    _FORGETTING: Final = 0.9995  # an outcome counts half after 1,400 others

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = list(weights)  # [d]; a list, as every drafted token is predicted
        self._covariance: npt.NDArray[np.float64] = np.eye(len(weights)) * self._SPREAD**2  # [d, d]
        self._accepted, self._judged = 1.0, 2.0

    @property
    def share_accepted(self) -> float:
        return self._accepted / self._judged

    def probability(self, x: Sequence[float]) -> float:
        return _probability(sum(map(mul, self._weights, x)))

    def observe(self, x: Sequence[float], accepted: bool) -> None:
        self._accepted = self._accepted * self._FORGETTING + accepted
        self._judged = self._judged * self._FORGETTING + 1.0
        features = np.array(x, np.float64)
        expected = self.probability(x)
        slope = expected * (1.0 - expected)
        gain = self._covariance @ features
        spread = 1.0 + slope * float(features @ gain)
        step = (accepted - expected) / spread
        self._weights = [weight + step * each for weight, each in zip(self._weights, gain.tolist(), strict=True)]
        self._covariance = self._covariance - np.outer(gain, gain) * (slope / spread)
        # Forgetting must not widen what is never seen beyond what was believed of it at first.
        widened = self._covariance / self._FORGETTING
        if float(np.trace(widened)) <= self._SPREAD**2 * len(x):
            self._covariance = widened


def _probability(odds: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(-_MOST_LOGIT, min(_MOST_LOGIT, odds))))


def _log_odds(share: float) -> float:
    inside = min(max(share, 1e-6), 1.0 - 1e-6)
    return max(-_MOST_LOGIT, min(_MOST_LOGIT, math.log(inside / (1.0 - inside))))
