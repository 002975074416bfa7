"""`start.py serve` with a stand-in for ComfyUI: what is said, and when."""

import sys

import pytest
from flexid.setup import hand, server
from flexid.setup.console import SetupError

pytestmark = pytest.mark.pure

SLOW = """
import http.server, sys, time
print("loading nodes", flush=True)
time.sleep(1)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response({status}); self.end_headers(); self.wfile.write(b"page")
    def log_message(self, *_): pass
with http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer) as served:
    served.handle_request()
time.sleep(1)
print("got prompt", flush=True)
sys.exit(3)
"""


def foreground(code, folder):
    port = server.free_port()
    words = [sys.executable, "-c", code, str(port)]
    return hand._foreground(words, folder, port, f"ComfyUI: http://127.0.0.1:{port}")


@pytest.mark.parametrize("status", [200, 404])
def test_the_address_is_said_when_the_page_answers(tmp_path, capsys, status):
    assert foreground(SLOW.format(status=status), tmp_path) == 3
    said = capsys.readouterr().out
    steps = ("starting ComfyUI ...", "starting ComfyUI: done", "http://127.0.0.1", "got prompt")
    order = [said.index(words) for words in steps]
    assert order == sorted(order)
    assert "loading nodes" not in said
    assert (tmp_path / "server.log").read_text().split("\n")[0].strip() == "loading nodes"


def test_a_server_that_does_not_come_up_gives_its_reason_and_no_address(tmp_path, capsys):
    with pytest.raises(SetupError, match=r"(?s)exit code 7.*the reason"):
        foreground("print('the reason', flush=True); raise SystemExit(7)", tmp_path)
    assert "http://" not in capsys.readouterr().out


def test_the_live_line_shows_the_last_line_without_colours(tmp_path):
    class Line:
        detail = ""

    relay = hand.Relay(None, tmp_path / "log", Line)
    relay._show("one\n\x1b[31mtwo\x1b[0m\n\n")
    assert Line.detail == "two"
    relay._show("\n")
    assert Line.detail == "two"
