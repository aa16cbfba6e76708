"""The token bucket in hand-worked numbers, and its promise for any frames at any times."""

from hypothesis import given
from hypothesis import strategies as st

from multispin_agent.pacing import Pacer

MS = 1_000_000
FRAMES = st.lists(st.tuples(st.integers(0, 50 * MS), st.integers(1, 500)), max_size=40)


def test_a_burst_passes_at_once_and_the_rest_at_the_rate() -> None:
    pacer = Pacer(1000.0, burst_bytes=100)
    assert [pacer.due_ns(50, 0) for _ in range(4)] == [0, 0, 50 * MS, 100 * MS]
    assert pacer.due_ns(50, 300 * MS) == 300 * MS  # full again since 200 ms


def test_a_bucket_does_not_save_up_more_than_its_burst() -> None:
    pacer = Pacer(1000.0, burst_bytes=100)
    pacer.due_ns(100, 0)
    assert pacer.due_ns(150, 3600 * 1000 * MS) == 3600 * 1000 * MS + 50 * MS


def test_without_a_rate_everything_passes_and_a_rate_counts_from_its_setting() -> None:
    pacer = Pacer(None)
    assert pacer.due_ns(1 << 20, 7) == 7
    pacer.set_rate(1000.0, 10)
    assert pacer.due_ns(1500, 10) == 10 + 100 * MS
    pacer.set_rate(None, 20)
    assert pacer.due_ns(1500, 20) == 20


@given(FRAMES, st.integers(10, 100_000), st.integers(1, 2000))
def test_no_time_holds_more_than_burst_and_rate_and_one_long_frame(
    frames: list[tuple[int, int]], rate: int, burst: int
) -> None:
    pacer, now_ns = Pacer(float(rate), burst), 0
    sent: list[tuple[int, int]] = []
    for pause_ns, num_bytes in frames:
        now_ns += pause_ns
        sent.append((pacer.due_ns(num_bytes, now_ns), num_bytes))
        assert sent[-1][0] >= now_ns
    times = [due_ns for due_ns, _ in sent]
    assert times == sorted(times)
    for start in range(len(sent)):
        for end in range(start, len(sent)):
            total = sum(num_bytes for _, num_bytes in sent[start : end + 1])
            allowed = burst + rate * (times[end] - times[start]) / 1e9 + sent[start][1]
            assert total <= allowed + 1e-3


@given(FRAMES)
def test_frames_that_keep_to_the_rate_are_never_held(frames: list[tuple[int, int]]) -> None:
    pacer, now_ns = Pacer(1000.0, 500), 0
    for _, num_bytes in frames:
        assert pacer.due_ns(num_bytes, now_ns) == now_ns
        now_ns += num_bytes * MS
