"""`multispin bench`: the arithmetic on hand-worked numbers, the measuring on a toy model, the commands in processes."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest
from tests.toy_model import ToyModel

from multispin.bench.alone import HttpRival, measure_rival
from multispin.bench.null_model import N_VOCAB, NullModel, PassTime
from multispin.bench.overhead import RoundTimes, round_times, summarize_overhead, together
from multispin.bench.percentile import percentile_90
from multispin.bench.ranking import best_of, fit_points
from multispin.bench.tables import verify_lines
from multispin.bench.verify import Point, Shape, Subject, measure, shapes_of
from multispin.flags import parse_engines
from multispin_models.errors import ConfigError
from multispin_models.language_model import LanguageModel, Rows
from multispin_models.line import Line, fit_line
from multispin_models.records import RoundRecord

# -- the line ---------------------------------------------------------------------------------------------------------


def test_points_on_a_line_give_that_line() -> None:
    assert fit_line([(1, 3.0), (2, 5.0), (5, 11.0)]) == Line(1.0, 2.0, 0.0, 0.0)


def test_one_wild_point_of_five_does_not_move_the_line() -> None:
    # Slopes: six of 2 among the four, four others with the fifth; what is left: 1, 1, 1, 1, 90.
    assert fit_line([(1, 3.0), (2, 5.0), (3, 7.0), (4, 9.0), (5, 100.0)]) == Line(1.0, 2.0, 0.0, 89.0)


def test_points_off_the_line_show_in_the_distances() -> None:
    # Slopes 1, 2, 1.5: median 1.5. What is left: 0.5, 0, 0.5: median 0.5. Distances 0, 0.5, 0.
    assert fit_line([(1, 2.0), (2, 3.0), (3, 5.0)]) == Line(0.5, 1.5, 0.0, 0.5)


def test_the_90th_percentile_is_a_value_by_nearest_rank() -> None:
    assert percentile_90([7.0]) == 7.0
    assert percentile_90([1.0, 2.0]) == 2.0
    assert percentile_90(range(20, 0, -1)) == 18


def test_points_of_one_x_have_no_line() -> None:
    assert fit_line([(2, 1.0), (2, 3.0)]) is None
    assert fit_line([]) is None


# -- verify: shapes, measuring, ranking -------------------------------------------------------------------------------


def test_rows_are_spread_over_the_sequences_as_evenly_as_they_go() -> None:
    assert Shape(9, 4).parts() == [3, 2, 2, 2]
    assert Shape(8, 8).parts() == [1] * 8
    assert Shape(5, 1).parts() == [5]


def test_a_shape_with_a_sequence_without_a_row_is_left_out() -> None:
    assert shapes_of([1, 2, 5], [1, 2]) == [Shape(1, 1), Shape(2, 1), Shape(5, 1), Shape(2, 2), Shape(5, 2)]


class _Clock:
    """A clock that a model moves: a pass takes 1 ms and 2 ms a row; a token that is taken back, 0.25 ms."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


class _TimedToy(ToyModel):
    def __init__(self, clock: _Clock, log: list[str], name: str) -> None:
        super().__init__()
        self._clock, self._log, self._name = clock, log, name
        self.info = msgspec.structs.replace(self.info, engine=name)

    def forward(self, batch: Any) -> Any:
        self._clock.now_ns += 1_000_000 + 2_000_000 * sum(len(part.token_ids) for part in batch)
        assert all(part.num_logits in {0, len(part.token_ids)} or self.length(part.sequence) == 0 for part in batch)
        self._log.append(self._name)
        return super().forward(batch)

    def rewind(self, sequence: int, length: int) -> None:
        self._clock.now_ns += 250_000 * (self.length(sequence) - length)
        super().rewind(sequence, length)


def measured(log: list[str], *names: str, repeat: int = 3) -> tuple[list[Point], list[_TimedToy]]:
    clock = _Clock()
    models = [_TimedToy(clock, log, name) for name in names]
    subjects = [Subject("toys", model) for model in models]
    shapes = [Shape(1, 1), Shape(5, 1), Shape(5, 3)]
    return measure(subjects, shapes, 20, repeat=repeat, seed=1, clock=clock), models


def test_a_verification_is_the_pass_and_the_rewind() -> None:
    points, _ = measured([], "a")
    assert [(p.rows, p.sequences, p.ms_median, p.ms_min, p.n) for p in points] == [
        (1, 1, 3.25, 3.25, 3),
        (5, 1, 12.25, 12.25, 3),
        (5, 3, 12.25, 12.25, 3),
    ]
    assert {p.context for p in points} == {20}


def test_measuring_leaves_no_sequence_open() -> None:
    _, models = measured([], "a", "b")
    assert [model.num_open for model in models] == [0, 0]


def test_a_model_that_fails_while_it_is_measured_is_left_without_sequences() -> None:
    model = ToyModel()
    model.faults = 1
    with pytest.raises(Exception, match="planted"):
        measure([Subject("toys", model)], [Shape(1, 1)], 4, repeat=1, seed=0)
    assert model.num_open == 0


def test_models_are_measured_in_turn_and_not_one_after_the_other() -> None:
    log: list[str] = []
    measured(log, "a", "b", repeat=6)
    passes = "".join(log)
    assert passes.count("a") == passes.count("b")
    blocks = [passes[i : i + 4] for i in range(2, len(passes), 4)]  # after one pass of context each
    assert set(blocks) == {"aaaa", "bbbb"}  # one untimed, three points
    assert all({first, second} == {"aaaa", "bbbb"} for first, second in zip(blocks[::2], blocks[1::2], strict=True))


def point(engine: str, rows: int, ms: float, sequences: int = 1, context: int = 256) -> Point:
    return Point(
        pair="p",
        engine=engine,
        recipe="r",
        threads=1,
        rows=rows,
        sequences=sequences,
        context=context,
        ms_median=ms,
        ms_min=ms,
        ms_p90=ms,
        n=5,
    )


def test_every_model_number_of_sequences_and_context_has_its_own_line() -> None:
    fits = fit_points(
        [
            *(point("a", 1, 12.0), point("a", 5, 20.0), point("a", 9, 28.0)),
            *(point("a", 8, 30.0, sequences=8), point("b", 1, 9.0), point("b", 3, 10.0)),
        ]
    )
    assert [(f.engine, f.sequences, f.c0_ms, f.c1_ms_per_row, f.num_points) for f in fits] == [
        ("a", 1, 10.0, 2.0, 3),
        ("a", 8, None, None, 1),
        ("b", 1, 8.5, 0.5, 2),
    ]
    assert [f.residual_ms_largest for f in fits] == [0.0, None, None]


def test_the_best_has_the_least_time_for_five_rows_not_for_one() -> None:
    # a: 2 + 4 * 5 = 22 ms; b: 9 + 1 * 5 = 14 ms.
    fits = fit_points([point("a", 1, 6.0), point("a", 2, 10.0), point("b", 1, 10.0), point("b", 2, 11.0)])
    [best] = best_of(fits)
    assert (best.engine, best.ms, best.context) == ("b", 14.0, 256)


def test_the_table_gives_ratios_to_the_same_models_single_row() -> None:
    points = [point("a", 1, 10.0), point("a", 5, 25.0), point("b", 5, 25.0), point("a", 5, 30.0, context=1024)]
    lines = list(verify_lines(points, [], fit_points(points), []))
    assert [line.split()[-1] for line in lines[1:5]] == ["1.00", "2.50", "-", "-"]


# -- overhead: the arithmetic -----------------------------------------------------------------------------------------


def record(number: int, sent_ms: float, *, agent: str = "a", is_open: bool = False, **times_ms: float) -> RoundRecord:
    return RoundRecord(
        run_id="r",
        wire_request_id=1,
        agent_id=agent,
        round=number,
        is_open=is_open,
        num_draft_tokens=4,
        num_accepted=2,
        next_token_id=5,
        sent_ns=int((1e6 + sent_ms) * 1e6),
        draft_s=times_ms.get("draft", 8.0) / 1e3,
        round_trip_s=times_ms.get("round_trip", 22.0) / 1e3,
        residence_s=times_ms.get("residence", 21.0) / 1e3,
        verify_s=times_ms.get("verify", 20.0) / 1e3,
        network_s=(times_ms.get("round_trip", 22.0) - times_ms.get("residence", 21.0)) / 1e3,
        batch_rows=5,
        ahead_hit=None,
        payload_up_bytes=30,
        payload_down_bytes=20,
    )


def ms(times: RoundTimes) -> list[float]:
    parts = (times.period_s, times.agent_s, times.network_s, times.waiting_s, times.coordinator_s, times.overhead_s)
    return [round(part * 1e3, 6) for part in parts]


def test_a_lone_round_is_taken_apart_without_waiting() -> None:
    # Sent at 0, verdict at 22; 8 ms of drafting, sent at 30.5, verdict at 52.5.
    [times] = round_times([record(0, 0.0, is_open=True), record(1, 30.5)])
    assert ms(times) == [30.5, 0.5, 1.0, 0.0, 1.0, 2.5]


def test_the_parts_of_a_round_add_up_to_its_period() -> None:
    records = [record(n, 30.5 * n, is_open=n == 0) for n in range(3)]
    for t in round_times([*records, *(record(n, 30.5 * n + 9, agent="b", is_open=n == 0) for n in range(3))]):
        parts = (t.draft_s, t.agent_s, t.network_s, t.waiting_s, t.coordinator_s, t.verify_s)
        assert sum(parts) == pytest.approx(t.period_s)


def test_waiting_for_the_pass_of_another_is_no_overhead() -> None:
    # b: came at 100.5, computed 101 to 121 or so, done at 121.5.
    # a: came at 110.5, done at 142.5 after 32 ms, its pass from 122.5 on: waited from 110.5 to 121.5, 11 of the 12 ms.
    mine = [record(0, 79.0, is_open=True), record(1, 110.0, round_trip=33.0, residence=32.0)]
    [times] = round_times([*mine, record(0, 100.0, agent="b", is_open=True)])
    assert ms(times) == [42.0, 1.0, 1.0, 11.0, 1.0, 3.0]


def test_another_in_the_same_pass_is_not_waited_for() -> None:
    # Both are done by one pass; the estimates of its end differ by the half of a millisecond of network.
    mine = [record(0, 0.0, is_open=True), record(1, 30.5)]
    other = record(0, 30.2, agent="b", is_open=True, round_trip=22.6)
    assert ms(round_times([*mine, other])[0])[3] == 0.0


def test_the_same_waiting_is_not_counted_for_each_of_two_before() -> None:
    mine = [record(0, 79.0, is_open=True), record(1, 110.0, round_trip=33.0, residence=32.0)]
    others = [record(0, 100.0, agent=agent, is_open=True) for agent in ("b", "c")]
    [times] = round_times([*mine, *others])
    assert ms(times)[3] == 11.0


def test_a_round_after_a_lost_one_is_left_out() -> None:
    assert round_times([record(1, 0.0), record(3, 60.0)]) == []


def test_only_rounds_while_all_agents_worked_are_looked_at() -> None:
    a = [record(n, 30.5 * n, is_open=n == 0) for n in range(6)]
    b = [record(n, 60.0 + 30.5 * n, agent="b", is_open=n == 0) for n in range(3)]
    times = round_times([*a, *b])
    # b's drafted rounds end at 112.5 and 143.0, a's at 52.5, 83.0, 113.5, 144.0, 174.5.
    kept = sorted(round((each.arrived_s - 1e3) * 1e3, 3) for each in together(times, 2))
    assert kept == [112.5, 113.5, 143.0]
    with pytest.raises(ConfigError, match="2 of 3 agents"):
        together(times, 3)


def test_shares_are_of_all_the_rounds_time() -> None:
    found = summarize_overhead(round_times([record(n, 30.5 * n, is_open=n == 0) for n in range(5)]))
    assert found.rounds == 4
    assert found.overhead_ms.median == pytest.approx(2.5)
    assert found.share == pytest.approx(2.5 / 30.5)
    assert found.waiting_share == 0.0


# -- the null engine --------------------------------------------------------------------------------------------------


def chosen(model: NullModel, tokens: list[int]) -> list[int]:
    sequence = model.open_sequence()
    [scores] = model.forward([Rows(sequence, tokens, len(tokens))])
    found = [int(token) for token in scores.argmax(axis=1)]
    model.close_sequence(sequence)
    return found


def test_the_null_draft_errs_for_a_quarter_of_the_tokens() -> None:
    target = NullModel(PassTime(0.0, 0.0), 1, is_draft=False)
    draft = NullModel(PassTime(0.0, 0.0), 1, is_draft=True)
    tokens = list(range(100))
    agreed = [a == b for a, b in zip(chosen(target, tokens), chosen(draft, tokens), strict=True)]
    assert agreed == [token % 4 != 0 for token in tokens]
    assert max(chosen(target, [N_VOCAB - 1])) < N_VOCAB


def test_the_null_engine_says_that_it_is_none() -> None:
    model: LanguageModel = NullModel(PassTime(0.0, 0.0), 1, is_draft=False)
    assert (model.info.engine, model.info.recipe) == ("null", "null")
    assert "no model" in model.info.name


# -- the commands -----------------------------------------------------------------------------------------------------


def test_engines_are_named_with_a_recipe_or_without() -> None:
    assert parse_engines("a,b:w8a8", ["a", "b"]) == ["a", "b:w8a8"]
    with pytest.raises(ConfigError, match=r"has 'c:x', allowed are a, b"):
        parse_engines("a,c:x", ["a", "b"])
    with pytest.raises(ConfigError, match="only once"):
        parse_engines("a,a", ["a", "b"])


def test_the_overhead_of_the_null_engine_is_measured_in_processes_of_their_own(
    run_multispin: Any, tmp_path: Any
) -> None:
    ran = run_multispin(
        "bench", "overhead", "--engine", "null", "--agents", "1,2", "--rounds", 60, "--out", tmp_path / "out", "--json"
    )
    assert ran.status == 0, ran.stderr
    result = ran.summary
    assert [(run["engine"], run["is_model"], run["agents"]) for run in result["runs"]] == [
        ("null", False, 1),
        ("null", False, 2),
    ]
    for run in result["runs"]:
        found = run["overhead"]
        assert found["overhead_ms"]["median"] > 0
        # The null engine sleeps 3 ms a drafted token, up to 4 of them, and 12 ms and more a verification.
        assert found["draft_ms"]["median"] >= 3
        assert 12 <= found["verify_ms"]["median"] < found["period_ms"]["median"]
        assert run["cpu_ms_per_round_agent"] > 0
        assert run["cpu_ms_per_round_coordinator"] > 0
        for end in ("agent", "coordinator"):
            assert run[f"core_wait_ms_per_round_{end}"] is None or run[f"core_wait_ms_per_round_{end}"] >= 0
    assert result["runs"][0]["overhead"]["rounds"] >= 60
    assert result["runs"][0]["overhead"]["waiting_ms"]["p90"] == 0.0
    assert set(result["growth_ms"]) == {"null, 1 to 2 agents"}
    assert len(list((tmp_path / "out").glob("null-2/agent-*/rounds.jsonl"))) == 2


def test_more_rows_than_sequences_are_asked_for(run_multispin: Any) -> None:
    ran = run_multispin("bench", "verify", "--rows", "2,3", "--sequences", "4")
    assert ran.status == 1
    assert "every sequence needs a row" in ran.stderr


@pytest.mark.model
def test_a_verification_of_the_default_target_is_measured(run_multispin: Any) -> None:
    ran = run_multispin(
        *("bench", "verify", "--engine", "llamacpp", "--rows", "1,2,5", "--sequences", "1,2", "--context", "32"),
        *("--repeat", 2, "--draft", "--json"),
    )
    assert ran.status == 0, ran.stderr
    result = ran.summary
    assert [(p["rows"], p["sequences"], p["context"]) for p in result["points"]] == [
        *((rows, 1, 32) for rows in (1, 2, 5)),
        *((rows, 2, 32) for rows in (2, 5)),
    ]
    assert all(0 < p["ms_min"] <= p["ms_median"] <= p["ms_p90"] and p["n"] == 2 for p in result["points"])
    assert [(fit["sequences"], fit["num_points"]) for fit in result["fits"]] == [(1, 3), (2, 2)]
    assert [(draft["recipe"], draft["rows"]) for draft in result["drafts"]] == [("Q8_0", 1)]
    assert [model["recipe"] for model in result["models"]] == ["BF16", "Q8_0"]
    assert all(isinstance(model["exact"], bool) for model in result["models"])
    [best] = result["best"]
    assert (best["engine"], best["sequences"], best["rule"]) == ("llamacpp", 1, result["rule"])


# -- the rival by HTTP ------------------------------------------------------------------------------------------------


class _SlotServer(BaseHTTPRequestHandler):
    """llama.cpp's /completion as far as the bench asks: a prompt that its slot holds is not computed where allowed."""

    held: dict[int, list[int]]
    computed: list[int]

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        slot, prompt = asked["id_slot"], asked["prompt"]
        reused = asked["cache_prompt"] and self.held.get(slot) == prompt
        self.computed.append(1 if reused else len(prompt))
        self.held[slot] = prompt
        answer = json.dumps({"tokens_predicted": asked["n_predict"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has in the base class
        pass


def test_a_rivals_prompts_are_computed_in_every_round_but_not_while_it_decodes() -> None:
    handler = type("Handler", (_SlotServer,), {"held": {}, "computed": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            rival = HttpRival(f"http://127.0.0.1:{server.server_address[1]}")
            for _ in range(2):
                handler.computed.clear()
                figures = measure_rival(rival, [[1, 2, 3, 4], [5, 6, 7]], 16)
                assert handler.computed[:2] == [4, 3]  # prefill
                assert handler.computed[2:] == [1, 1]  # decode
                assert (figures.users, figures.tokens) == (2, 32)
        finally:
            server.shutdown()
            thread.join()
