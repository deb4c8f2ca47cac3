import pytest

from kvstream import ConfigError, MetricsConfig, StreamConfig, load_config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sample_rate", 0),
        ("sample_rate", 1.01),
        ("sample_rate", float("nan")),
        ("sample_rate", "half"),
        ("history_size", 0),
        ("history_size", 1.5),
        ("trend_window", 3),
        ("trend_window", 601),
        ("anomaly_threshold", 0),
        ("enable_detailed", "yes"),
        ("export_interval", -1),
        ("window_seconds", 0),
        ("windows", 1),
        ("access_history", 0),
        ("histogram_scale", 9),
        ("capacity", 0),
    ],
)
def test_metrics_config_names_the_field_it_rejects(field, value):
    with pytest.raises(ConfigError, match=field):
        MetricsConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("consumers", 0),
        ("queue_events", 0),
        ("overflow", "explode"),
        ("frame_events", 2**21),
        ("flush_interval", 0),
        ("shutdown_timeout", 0),
        ("subscriber_buffer", 0),
    ],
)
def test_stream_config_names_the_field_it_rejects(field, value):
    with pytest.raises(ConfigError, match=field):
        StreamConfig(**{field: value})


def test_later_settings_win_file_environment_flags(tmp_path):
    path = tmp_path / "kvstream.toml"
    path.write_text("sample_rate = 0.5\nwindows = 100\ntrend_window = 50\nhistory_size = 7\n")
    environ = {"KVSTREAM_WINDOWS": "200", "KVSTREAM_HISTORY_SIZE": "8"}
    config = load_config(MetricsConfig, path, environ, history_size=9, capacity=None)
    assert (config.sample_rate, config.windows, config.history_size, config.capacity) == (0.5, 200, 9, None)


@pytest.mark.parametrize("text", ["sample_rate = 2", "sample_rat = 1", "windows = 'many'", "= ="])
def test_config_file_with_an_error_is_a_config_error(tmp_path, text):
    path = tmp_path / "kvstream.toml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_config(MetricsConfig, path, {})


def test_missing_config_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.toml"):
        load_config(MetricsConfig, tmp_path / "nothing.toml", {})
