"""A chat as code to paste: what one tried by hand, for curl, for Python with OpenAI's package, for JavaScript."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

PLACEHOLDER = "YOUR_TOKEN"
"""Where the caller's token belongs; a real one never stands in code that is shown twice."""
AUTO = "auto"
CURL = """curl {address} \\
  -H 'Authorization: Bearer {token}' \\
  -H 'Content-Type: application/json' \\
  -d {body}"""
PYTHON = """from openai import OpenAI

client = OpenAI(base_url={address}, api_key="{token}")
answer = client.chat.completions.create(
{arguments}
)
print(answer.choices[0].message.content)"""
JAVASCRIPT = """const response = await fetch({address}, {{
  method: "POST",
  headers: {{ Authorization: "Bearer {token}", "Content-Type": "application/json" }},
  body: JSON.stringify({body}),
}});
console.log((await response.json()).choices[0].message.content);"""


def write_snippets(body: Mapping[str, Any], address: str) -> dict[str, str]:
    """``body``: of ``/v1/chat/completions``, of texts and numbers; ``address``: of this gateway, without a path."""
    door = f"{address}/v1/chat/completions"
    return {
        "curl": CURL.format(address=shlex.quote(door), token=PLACEHOLDER, body=_in_shell(_json(body, 2))),
        "python": PYTHON.format(
            address=_json(f"{address}/v1"), token=PLACEHOLDER, arguments=_arguments({"model": AUTO, **body})
        ),
        "javascript": JAVASCRIPT.format(address=_json(door), token=PLACEHOLDER, body=_further_in(_json(body, 2), "  ")),
    }


def _arguments(body: Mapping[str, Any]) -> str:
    """JSON without true, false and null is Python too."""
    lines = ",\n".join(f"{name}={_json(value, 4)}" for name, value in body.items())
    return f"    {_further_in(lines, '    ')},"


def _further_in(text: str, by: str) -> str:
    """All lines but the first; `textwrap.indent` would also break at what only looks like the end of a line."""
    return text.replace("\n", f"\n{by}")


def _json(value: Any, spaces: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=spaces)


def _in_shell(text: str) -> str:
    """Always in quotation marks, also where the shell would need none."""
    return "'" + text.replace("'", "'\"'\"'") + "'"
