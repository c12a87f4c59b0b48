"""A network that does not answer costs seconds, not minutes."""

import threading
import time
import urllib.error

from catsdogs import network


def test_dead_network_is_noticed_within_the_limit(monkeypatch):
    given_up = threading.Event()

    def never_answers(request, timeout):
        given_up.wait(30)
        raise TimeoutError

    monkeypatch.setattr(network.urllib.request, "urlopen", never_answers)
    start = time.monotonic()
    assert network.why_unreachable("http://example.invalid", 0.2) == "no answer within 0.2 s"
    assert time.monotonic() - start < 5
    given_up.set()


def test_a_server_that_refuses_is_still_a_server(monkeypatch):
    def refuses(request, timeout):
        raise urllib.error.HTTPError(request.full_url, 405, "no HEAD here", {}, None)

    monkeypatch.setattr(network.urllib.request, "urlopen", refuses)
    assert network.why_unreachable("http://example.invalid") is None


def test_reason_is_given(monkeypatch):
    def unknown(request, timeout):
        raise urllib.error.URLError("name not known")

    monkeypatch.setattr(network.urllib.request, "urlopen", unknown)
    assert "name not known" in network.why_unreachable("http://example.invalid")
