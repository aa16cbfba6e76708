"""What an agent believes of its drafted tokens: learnt from verdicts, calibrated, never from a token not yet judged."""

import math

import numpy as np
import pytest

from multispin_agent.confidence import Confidence, Evidence, Features, RequestConfidence


def of_model(probability: float, margin: float, record: float = 0.0) -> Features:
    return Features(Evidence(0, probability, margin), record)


def test_before_the_first_verdict_a_lookup_is_believed_as_lookups_were_elsewhere() -> None:
    confidence = Confidence()
    believed = [confidence.probability(Features(Evidence(n))) for n in (1, 2, 3, 4)]
    assert believed == pytest.approx([0.23, 0.42, 0.54, 0.63], abs=0.01)


def test_a_clearer_choice_is_believed_more() -> None:
    confidence = Confidence()
    believed = [confidence.probability(of_model(p, margin)) for p, margin in ((0.1, 0.1), (0.5, 1.0), (0.99, 6.0))]
    assert believed == sorted(believed)
    assert 0.0 < believed[0] < believed[-1] < 1.0
    for extreme in (of_model(0.0, 0.0, -9.0), of_model(1.0, 20.0, 9.0), Features(Evidence(10_000), 9.0)):
        assert 0.0 < confidence.probability(extreme) < 1.0


@pytest.mark.parametrize("steepness", [0.4, 2.0])
def test_after_a_thousand_verdicts_it_says_what_happens_whatever_was_believed_at_first(steepness: float) -> None:
    """Outcomes are drawn by another rule than the one that it begins with; it is asked before it is told."""
    random = np.random.default_rng(3)
    confidence = Confidence()
    said: list[tuple[float, bool]] = []
    for _ in range(4000):
        margin = float(random.exponential(2.0))
        probability = 1.0 / (1.0 + math.exp(-margin - float(random.normal(0.0, 0.3))))
        truth = 1.0 / (1.0 + math.exp(1.0 - steepness * margin))
        features = of_model(probability, margin)
        said.append((confidence.probability(features), bool(random.random() < truth)))
        confidence.observe(features, said[-1][1])
    late = said[1000:]
    tenths = [[pair for pair in late if int(pair[0] * 10) == tenth] for tenth in range(10)]
    error = sum(abs(sum(p for p, _ in t) - sum(y for _, y in t)) for t in tenths) / len(late)
    assert error < 0.03


def test_it_forgets_what_no_longer_holds() -> None:
    confidence = Confidence()
    features = Features(Evidence(2))
    for accepted in [True] * 3000 + [False] * 3000:
        confidence.observe(features, accepted)
    assert confidence.probability(features) < 0.2


def test_what_is_learnt_of_lookups_says_nothing_of_the_model() -> None:
    confidence = Confidence()
    before = confidence.probability(of_model(0.7, 1.0))
    for _ in range(100):
        confidence.observe(Features(Evidence(3)), False)
    assert confidence.probability(of_model(0.7, 1.0)) == before
    assert confidence.probability(Features(Evidence(3))) < 0.2


class Heard(Confidence):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[int, bool]] = []

    def observe(self, features: Features, accepted: bool) -> None:
        self.heard.append((features.evidence.num_matched, accepted))
        super().observe(features, accepted)


def test_tokens_behind_a_rejected_one_teach_nothing() -> None:
    confidence = Heard()
    request = RequestConfidence(confidence)
    predicted = request.guessed(10, [5, 6, 7, 8], [Evidence(n) for n in (1, 2, 3, 4)])
    assert request.judged(10, [5, 6, 7, 8], 1) == predicted
    assert confidence.heard == [(1, True), (2, False)]


def test_what_was_not_guessed_or_guessed_otherwise_is_unknown() -> None:
    confidence = Heard()
    request = RequestConfidence(confidence)
    [first] = request.guessed(10, [5], [Evidence(1)])
    request.guessed(11, [6], [Evidence(1)])
    request.guessed(11, [9], [Evidence(2)])  # guessed anew: the earlier guess was thrown away
    assert request.judged(10, [5, 6, 7], 3) == [first, None, None]
    assert confidence.heard == [(1, True)]


def test_guesses_ahead_are_kept_until_they_are_judged_and_no_longer() -> None:
    request = RequestConfidence(Confidence())
    ahead = request.guessed(10, [5, 6, 7], [Evidence(1)] * 3)
    assert request.judged(10, [5], 1) == ahead[:1]
    assert request.judged(11, [6, 7], 2) == ahead[1:]
    assert request._guesses == {}


def test_a_request_whose_lookups_go_well_is_believed_more_than_a_new_one() -> None:
    confidence = Confidence()
    good = RequestConfidence(confidence)
    for start in range(0, 40, 4):
        good.guessed(start, [1] * 4, [Evidence(2)] * 4)
        good.judged(start, [1] * 4, 4)
    for _ in range(60):  # lookups of other requests go badly
        confidence.observe(Features(Evidence(2)), False)
    [of_good], [of_new] = (each.guessed(99, [1], [Evidence(2)]) for each in (good, RequestConfidence(confidence)))
    assert of_good > of_new + 0.2
