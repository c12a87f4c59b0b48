"""Does a server answer? Known within seconds, so that a machine without a network goes on."""

import http.client
import threading
import urllib.error
import urllib.request

__all__ = ["why_unreachable"]


def why_unreachable(url, seconds=5):
    """Asks for the head of a file; proxies are taken from the usual environment variables.

    Args:
        url: Address of the file.
        seconds: How long to wait at most, name look-up included.

    Returns:
        Why there is no answer, in a few words, or `None` if there is one, of whatever kind.
    """
    outcome = [f"no answer within {seconds} s"]

    def ask():
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=seconds).close()
            outcome[0] = None
        except urllib.error.HTTPError:
            outcome[0] = None  # there is a server; what it gives is for the download to find out
        except (OSError, ValueError, http.client.HTTPException) as error:
            outcome[0] = str(error).strip("<>")

    # The socket's time-out does not cover the name look-up, which alone can take half a minute.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0]
