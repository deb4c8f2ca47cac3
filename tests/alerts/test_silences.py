import datetime

import anyio
import pytest
from msgspec.structs import replace

from kvstream import KVStream, MetricsConfig, Silence, StreamConfig
from kvstream.alerts.rules_file import default_rules
from kvstream.alerts.silences import MAX_SILENCES, Silences, exactly
from kvstream.errors import ConfigError
from tests.alerting import alert
from tests.text.test_escape import HOSTILE_NAMES
from tests.waiting import DEADLINE, turns_while

NAMES = [name for name in HOSTILE_NAMES.values() if len(name) <= 256]
T0 = 1_700_000_000.0


def at(seconds):
    return datetime.datetime.fromtimestamp(T0 + seconds, datetime.UTC)


def config(**changes):
    return StreamConfig(metrics=MetricsConfig(capacity=10, export_interval=0.0, **changes))


async def fill(stream, source="engine", start=0, live=10):
    """Ten seconds with a cache that is full, so that ``occupancy_high`` fires."""
    producer = stream.producer(source)
    for second in range(start, start + 10):
        producer.accessed_nowait([0], ts=round((T0 + second) * 1e9))
        if second == start:
            producer.allocated_nowait(range(live), ts=round((T0 + second) * 1e9))
    await stream.flush()


def test_a_silence_needs_an_end_unless_it_is_of_one_incident():
    with pytest.raises(ConfigError, match="until is missing"):
        Silence(rule="x")
    assert Silence(incident="abc").covers(alert(incident="abc"))
    assert not Silence(incident="abc").covers(alert(incident="abd"))


@pytest.mark.parametrize("field", ["rule", "source", "tier", "reason", "incident"])
def test_texts_of_a_silence_are_bounded(field):
    with pytest.raises(ConfigError, match=field):
        Silence(until=at(0), **{field: "x" * 2000})


@pytest.mark.parametrize("name", [*NAMES, "[a]", "*", "a?b", "[!x]"])
def test_an_exact_pattern_fits_its_name_and_no_other(name):
    silence = Silence(until=at(10), source=exactly(name))
    assert silence.covers(alert(source=name))
    assert not silence.covers(alert(source=f"{name}x"))


def test_silences_are_bounded_in_number_and_say_so():
    silences = Silences()
    for _ in range(MAX_SILENCES):
        silences.add(Silence(until=at(10)))
    with pytest.raises(ConfigError, match="1,000"):
        silences.add(Silence(until=at(10)))
    silences.drop_ended(T0 + 10, ())
    assert len(silences) == 0


def test_silences_of_a_file_are_replaced_and_others_stay():
    kept, gone = Silence(until=at(10)), Silence(until=at(20))
    silences = Silences([kept, gone])
    (before, _) = silences.all()
    mine = silences.add(Silence(until=at(30)))
    silences.replace_configured([kept, Silence(until=at(40))])
    assert [each.until for each in silences.all()] == [at(10), at(30), at(40)]
    assert {before.id, mine.id} < {each.id for each in silences.all()}


async def test_a_silence_begins_and_ends_at_once_without_an_event():
    async with KVStream(config()) as stream:
        alerts = stream.alerts()
        await fill(stream)
        with anyio.fail_after(DEADLINE):
            assert (await anext(alerts)).state == "firing"
        silence = await stream.silence(Silence(until=at(3600), rule="occupancy_*", reason="known"))
        assert stream.silences() == [silence]
        assert stream.firing() == []
        assert [each["silenced_by"] for each in stream.summary_nowait().alerts] == ["known"]
        await fill(stream, "other")
        assert stream.firing() == [], "of the other source, neither"
        assert await stream.unsilence(silence.id)
        assert not await stream.unsilence(silence.id)
        last = await anext(alerts)
        assert (last.source, last.state) == ("other", "firing"), "which nobody was notified of before"
        assert {each.source for each in stream.firing()} == {"engine", "other"}


async def test_an_acknowledgement_is_of_one_incident_and_ends_with_it():
    async with KVStream(config()) as stream:
        await fill(stream)
        await fill(stream, "other")
        first, _ = stream.firing()
        silence = await stream.acknowledge(first.fingerprint, "seen")
        assert (silence.incident, silence.until, silence.reason) == (first.incident, None, "seen")
        assert await stream.acknowledge(first.fingerprint, "seen") == silence, "once"
        assert len(stream.silences()) == 1
        assert [each.source for each in stream.firing()] == ["other"]
        producer = stream.producer("engine")
        producer.evicted_nowait(range(10), ts=round((T0 + 20) * 1e9))
        for second in range(21, 200):
            producer.accessed_nowait([0], ts=round((T0 + second) * 1e9))
        await stream.flush()
        assert stream.silences() == []
        assert await stream.acknowledge(first.fingerprint) is None
        await fill(stream, start=1000)
        assert {each.source for each in stream.firing()} == {"engine", "other"}


async def test_ended_silences_are_dropped_by_event_time():
    async with KVStream(config()) as stream:
        early = await stream.silence(Silence(until=at(5)))
        late = await stream.silence(Silence(until=at(3600)))
        assert stream.silences() == [early, late], "as nobody knows yet what time it is"
        await fill(stream)
        assert stream.silences() == [late]
        assert stream.event_time() == pytest.approx(T0 + 9, abs=60)
        assert stream.event_time("engine") == pytest.approx(T0 + 9, abs=60)


async def test_the_silences_that_a_stream_is_made_with_can_be_removed():
    async with KVStream(config(), silences=[Silence(until=at(3600))]) as stream:
        await fill(stream)
        assert stream.firing() == []
        (silence,) = stream.silences()
        await stream.unsilence(silence.id)
        assert [each.rule for each in stream.firing()] == ["occupancy_high"]


def test_an_id_is_one_for_a_path():
    with pytest.raises(ConfigError, match="id"):
        Silence(until=at(0), id="a/b")
    assert replace(Silence(until=at(0)), id="a-b_9").id == "a-b_9"


async def test_silences_and_rules_of_many_firing_alerts_leave_the_loop_to_others():
    async with KVStream(config(curve_keys=0, remembered_evictions=0)) as stream:
        for number in range(100):
            await fill(stream, f"engine-{number}")
        assert len(stream.firing()) == 100
        assert await turns_while(stream.silence(Silence(until=at(3600), reason="known"))) >= 100
        assert stream.firing() == []
        assert await turns_while(stream.replace_rules(default_rules())) >= 200
        assert await turns_while(stream.unsilence(stream.silences()[0].id)) >= 100
        assert len(stream.firing()) == 100


def test_silences_of_many_patterns_are_looked_at_once_an_alert():
    silences = Silences(Silence(until=at(10), source=f"x{n}*") for n in range(MAX_SILENCES - 1))
    covers = silences.add(Silence(until=at(10), source="engine-[0-9]", reason="known"))
    asked = alert(source="engine-7")
    assert silences.reason(asked, T0) == silences.reason(asked, T0) == "known"
    assert silences.reason(asked, T0 + 10) == ""
    silences.remove(covers.id)
    assert silences.reason(asked, T0) == ""
