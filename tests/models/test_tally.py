"""Counts: histograms and drafts by position, worked out by hand."""

from multispin_models.tally import DraftTally, Histogram


def test_a_value_on_a_bound_belongs_to_the_class_that_ends_there() -> None:
    histogram = Histogram([1, 2, 4])
    for value in (0.5, 1, 1.5, 4, 5):
        histogram.add(value)
    assert histogram.cumulative() == [("1.0", 2), ("2.0", 3), ("4.0", 4), ("+Inf", 5)]
    assert histogram.total == 12


def test_accepted_tokens_are_counted_where_they_stood_and_rounds_without_a_draft_are_none() -> None:
    tally = DraftTally()
    for drafted, accepted in ((3, 3), (3, 1), (0, 0), (2, 0)):
        tally.add(drafted, accepted)
    assert (tally.num_drafts, tally.num_draft_tokens, tally.accepted_at) == (3, 8, [2, 1, 1])
