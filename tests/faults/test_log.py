from kvstream.faults.log import FaultLog


def test_faults_are_counted_by_part_and_reason_and_logged_once_a_second(caplog):
    now = 0.0
    faults = FaultLog(clock=lambda: now)
    for _ in range(10):
        faults.note("frames", "bad_token", "refused a producer")
    faults.note("frames", "reset", "a producer went away")
    now = 1.5
    faults.note("frames", "bad_token", "refused a producer")
    assert faults.counts == {("frames", "bad_token"): 11, ("frames", "reset"): 1}
    assert caplog.messages == [
        "refused a producer",
        "a producer went away",
        "refused a producer (9 more like it)",
    ]


def test_text_from_outside_does_not_reach_the_log_raw(caplog):
    FaultLog().note("http", "bad_request", "asked for \x1b[2J" + "x" * 10_000)
    (message,) = caplog.messages
    assert "\x1b" not in message
    assert len(message) <= 500
