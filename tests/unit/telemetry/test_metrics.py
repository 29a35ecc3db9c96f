"""The text of a scrape."""

from proxy.telemetry.metrics import Metrics


def test_a_histogram_without_labels_is_there_before_anything_is_counted() -> None:
    text = Metrics().render().decode()

    assert "llm_proxy_commit_seconds_count 0.0" in text
    assert 'llm_proxy_commit_operations_bucket{le="+Inf"} 0.0' in text


def test_a_bound_belongs_to_the_bucket_that_it_ends() -> None:
    metrics = Metrics()

    for seconds in (0.0, 0.0005, 0.0006, 99.0):
        metrics.committed(1, seconds)

    text = metrics.render().decode()
    assert 'llm_proxy_commit_seconds_bucket{le="0.0005"} 2.0' in text
    assert 'llm_proxy_commit_seconds_bucket{le="0.001"} 3.0' in text
    assert 'llm_proxy_commit_seconds_bucket{le="+Inf"} 4.0' in text
