"""`lse up` after a killed `lse up`."""

from __future__ import annotations

import signal
import socket
import urllib.request

import pytest
from home_fixtures import Installation
from platform_fixtures import Up, free_port

from lse_platform.process_registry import Registry, is_running
from lse_resources.settings import Settings

pytestmark = pytest.mark.slow


def test_up_replaces_a_killed_platform(bare_installation: Installation) -> None:
    port = free_port()
    registry = Registry(Settings.load().home / "run")
    first = Up(bare_installation, "--port", port)
    try:
        first.wait()
        records = registry.running()
        assert set(records) == {"up", "webserver", "daemon"}
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        assert is_running(records["webserver"])
        assert registry.holder() == f"process {first.process.pid} on {socket.gethostname()}"  # of the UI and the daemon
        log = bare_installation.directory / "up.log"
        log.write_text("")
        second = Up(bare_installation, "--port", port)
        try:
            second.wait()
            assert "stopping the webserver of a killed `lse up`" in second.text
            assert not [name for name, record in records.items() if is_running(record)]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=30) as answer:
                assert answer.status == 200
            assert second.stop() == 0
        finally:
            second.process.kill()
    finally:
        first.process.kill()
        bare_installation.lse("down")
    assert registry.running() == {}
    assert registry.holder() == ""
