#!/usr/bin/env python3
"""Exit 0 when the process in this container answers that it is ready."""

import os
import sys
import urllib.error
import urllib.request

url = f"http://127.0.0.1:{os.environ.get('RECS_WEB_PORT', '8080')}/ready"
try:
    with urllib.request.urlopen(url, timeout=4) as answer:
        sys.exit(0 if answer.status == 200 else 1)
except (urllib.error.URLError, OSError) as error:
    sys.exit(f"{url}: {error}")
