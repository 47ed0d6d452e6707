"""What the GitHub Action runs to show its report in the pull request: one comment, kept up to date.

The comment is found again by its first line. Nothing but `pull-requests: write` is needed; where
that is not given, such as for a pull request from a fork, a warning says so and the check goes on.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

#: Comments a page; GitHub gives no more.
PAGE = 100


def request(method: str, path: str, content: dict[str, str] | None = None) -> Any:
    """What GitHub answers.

    Raises:
        OSError: it does not, or refuses.
    """
    address = os.environ.get("GITHUB_API_URL", "https://api.github.com") + path
    headers = {
        "Accept": "application/vnd.github+json",
        "Authorization": f"Bearer {os.environ.get('ONNXSHARE_ACTION_TOKEN', '')}",
        "X-GitHub-Api-Version": "2022-11-28",
    }
    data = None if content is None else json.dumps(content).encode()
    asked = urllib.request.Request(address, data, headers, method=method)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)


def earlier(path: str, mark: str) -> int | None:
    """The number of the comment of an earlier run, or None: others may write the mark too, but
    only a program can have written that comment."""
    for page in itertools.count(1):
        found = request("GET", f"{path}?per_page={PAGE}&page={page}")
        for comment in found:
            if comment["user"]["type"] == "Bot" and comment["body"].startswith(mark):
                return int(comment["id"])
        if len(found) < PAGE:
            break
    return None


def main() -> int:
    """Write the comment, or put the report in place of that of an earlier run."""
    file = Path(os.environ["ONNXSHARE_ACTION_COMMENT_FILE"])
    if not file.exists():
        print("::notice title=onnxshare::there is no report to show in the pull request")
        return 0
    body = file.read_text(encoding="utf-8")
    issues = f"/repos/{os.environ['GITHUB_REPOSITORY']}/issues"
    comments = f"{issues}/{int(os.environ['ONNXSHARE_ACTION_NUMBER'])}/comments"
    try:
        number = earlier(comments, body.partition("\n")[0])
        if number is None:
            request("POST", comments, {"body": body})
        else:
            request("PATCH", f"{issues}/comments/{number}", {"body": body})
    except OSError as error:
        print(
            f"::warning title=onnxshare::no comment in the pull request: {error}; the job needs "
            "`pull-requests: write`, which a pull request from a fork never has"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
