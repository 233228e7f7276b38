"""The docs page: the same table as everything else, as HTML without scripts and outside resources."""

from __future__ import annotations

import base64
from hashlib import sha256
from html import escape
from typing import TYPE_CHECKING, Any

from distcomp import __version__
from distcomp.gateway.openapi import ABOUT, problems_of
from distcomp.gateway.problems import TITLES
from distcomp.gateway.table import OPERATIONS

if TYPE_CHECKING:
    from distcomp.gateway.table import Operation

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2.5rem; font-size: 1.1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9rem; }
pre { overflow-x: auto; padding: 0.75rem; border: 1px solid #8884; border-radius: 4px; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: 0.2rem 0.75rem 0.2rem 0; }
.method { display: inline-block; min-width: 4.5rem; font-weight: 700; }
.scope { font-size: 0.85rem; opacity: 0.75; }
"""
STYLE_DIGEST = base64.b64encode(sha256(STYLE.encode()).digest()).decode()

_EXAMPLE = """\
curl -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" \\
     -d '{"args": [7]}' "$GATEWAY/v1/functions/square/tasks?wait=30"
"""


def page() -> str:
    """The whole page."""
    contents = "".join(
        f'<li><a href="#{each.name}"><code>{each.method} {escape(each.path)}</code></a> '
        f"{escape(each.words)}</li>"
        for each in OPERATIONS
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>distcomp over HTTP</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>distcomp {escape(__version__)} over HTTP</h1><p>{_marked(ABOUT)}</p>"
        f"<pre>{escape(_EXAMPLE)}</pre><ul>{contents}</ul>"
        f"{''.join(map(_section, OPERATIONS))}</body></html>"
    )


def _section(operation: Operation) -> str:
    scope = f"needs the scope {operation.scope}" if operation.scope else "needs no token"
    parts = [
        (
            f'<h2 id="{operation.name}"><span class="method">{operation.method}</span> '
            f"<code>{escape(operation.path)}</code></h2>"
        ),
        f'<p>{_marked(operation.words)}. <span class="scope">{scope}</span></p>',
    ]
    if operation.more:
        parts.append(f"<p>{_marked(operation.more)}</p>")
    rows = [(f"{each.name} ({each.where})", _marked(each.words)) for each in operation.parameters]
    if operation.body is not None:
        rows += [(f"{name} (body)", _kind(schema)) for name, schema in operation.body["properties"].items()]
    rows += [(str(each.status), _marked(each.words)) for each in operation.answers if each.words]
    rows += [(str(TITLES[kind][0]), escape(TITLES[kind][1])) for kind in problems_of(operation)]
    cells = "".join(f"<tr><th><code>{escape(name)}</code></th><td>{words}</td></tr>" for name, words in rows)
    return f"{''.join(parts)}<table>{cells}</table>"


def _kind(schema: dict[str, Any]) -> str:
    bounds = [f"{word} {schema[key]}" for key, word in _BOUNDS.items() if key in schema]
    return escape(", ".join([schema.get("type", "anything"), *bounds]))


_BOUNDS = {"minimum": "from", "maximum": "to", "minItems": "at least", "maxItems": "at most"}


def _marked(text: str) -> str:
    """Text in which what stands between backticks is code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))
