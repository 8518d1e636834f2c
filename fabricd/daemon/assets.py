"""What the status page looks like and how it keeps up to date: its style, its script, its icon.

They are constants, so that the page's Content-Security-Policy can name them by their hashes and
nothing else is obeyed. What is on the page is `daemon.page`'s.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import Final
from urllib.parse import quote

from fabricd.core.graph import COLOURS, Level
from fabricd.core.svg import STYLE as PICTURE_STYLE

SILENCE: Final = 45
"""Seconds without a word of the daemon after which a page says so: three times `live.ALIVE`."""

MARKS: Final = {
    Level.UP: "\N{BLACK CIRCLE}",
    Level.STANDBY: "\N{WHITE CIRCLE}",
    Level.UNKNOWN: "?",
    Level.PARTIAL: "\N{CIRCLE WITH LEFT HALF BLACK}",
    Level.DOWN: "\N{MULTIPLICATION SIGN}",
    Level.IMPOSSIBLE: "\N{EMPTY SET}",
}
"""By shape, for who can't tell the colours."""

_STATES = "\n".join(
    f'.s-{level}::before {{ color: {COLOURS[level]}; content: "{mark}" }}'
    for level, mark in MARKS.items()
)

STYLE: Final = f"""
:root {{ color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif;
  --line: color-mix(in srgb, currentColor 22%, transparent); --focus: {COLOURS[Level.STANDBY]} }}
body {{ margin: 0 auto; max-width: 72rem; padding: 1rem; overflow-wrap: anywhere }}
h1 {{ font-size: 1.35rem; margin: 0 }}
h2 {{ display: inline; font-size: 1.1rem; margin: 0 }}
p {{ margin: 0.4rem 0 }}
section {{ margin-top: 1.4rem }}
summary {{ cursor: pointer; padding: 0.2rem 0 }}
:focus-visible {{ outline: 3px solid var(--focus); outline-offset: 2px; border-radius: 2px }}
.skip {{ position: absolute; left: -100vw }}
.skip:focus {{ position: static; display: inline-block; margin-bottom: 0.5rem }}
.fabric {{ display: block; width: 100%; max-width: 34rem; height: auto; margin: 0 auto }}
.fabric.large {{ width: auto; max-width: none }}
.scroll {{ overflow-x: auto }}
table {{ border-collapse: collapse; width: 100%; overflow-wrap: normal }}
th, td {{ text-align: left; padding: 0.3rem 0.9rem 0.3rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line) }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }}
tbody th, .time {{ white-space: nowrap }}
.long {{ overflow-wrap: anywhere; min-width: 11rem; white-space: normal }}
.state {{ white-space: nowrap }}
.state::before {{ display: inline-block; width: 1.1em; margin-right: 0.3em; text-align: center;
  font-weight: bold }}
{_STATES}
.sum {{ font-size: 1.1rem }}
.bad {{ border-left: 0.4rem solid {COLOURS[Level.DOWN]}; padding-left: 0.5rem }}
#live {{ font-size: 0.9rem }}
#live.bad {{ position: sticky; top: 0; background: Canvas; padding-block: 0.4rem }}
footer {{ margin-top: 2rem; border-top: 1px solid var(--line); padding-top: 0.5rem }}
footer a {{ margin-left: 0.6rem }}
@media (max-width: 44rem) {{
  body {{ padding: 0.7rem }}
  footer a {{ display: inline-block; padding: 0.4rem 0 }}
  thead {{ position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden }}
  tr {{ display: grid; grid-template-columns: 1fr 1fr; gap: 0.1rem 0.8rem; padding: 0.5rem 0;
    border-bottom: 1px solid var(--line) }}
  tbody th, td {{ border: 0; padding: 0; overflow-wrap: anywhere; white-space: normal }}
  .long, .time {{ grid-column: 1 / -1; min-width: 0 }}
  td:empty {{ display: none }}
  td.number {{ text-align: left; white-space: normal }}
  td[data-label]::before {{ content: attr(data-label) " "; opacity: 0.75 }}
}}
{PICTURE_STYLE}
"""

SCRIPT: Final = f"""
"use strict";
(() => {{
  const live = document.getElementById("live");
  const main = document.getElementById("main");
  let source, silence, since;

  // Change `old` into `now` where they differ: what has focus, is scrolled or was closed stays so.
  function merge(old, now) {{
    if (old.nodeName !== now.nodeName) {{
      old.replaceWith(now);
    }} else if (old.nodeType !== Node.ELEMENT_NODE) {{
      if (old.data !== now.data) old.data = now.data;
    }} else {{
      const mine = (name) => old.nodeName === "DETAILS" && name === "open";
      for (const {{name}} of [...old.attributes])
        if (!now.hasAttribute(name) && !mine(name)) old.removeAttribute(name);
      for (const {{name, value}} of now.attributes)
        if (old.getAttribute(name) !== value && !mine(name)) old.setAttribute(name, value);
      const before = [...old.childNodes];
      const after = [...now.childNodes];
      after.forEach((child, n) => n < before.length ? merge(before[n], child) : old.append(child));
      before.slice(after.length).forEach((child) => child.remove());
    }}
  }}

  function show(event) {{
    const news = JSON.parse(event.data);
    const focused = document.activeElement;
    document.title = news.title;
    for (const [id, html] of Object.entries(news.parts)) {{
      const page = new DOMParser().parseFromString(html, "text/html");
      merge(document.getElementById(id), page.body.firstElementChild);
    }}
    if (focused !== document.body && document.activeElement === document.body)
      main.focus({{preventScroll: true}});
    heard();
  }}

  function say(text, bad) {{
    if (live.textContent !== text) live.textContent = text;
    live.classList.toggle("bad", bad);
  }}

  function heard() {{
    since = undefined;
    say("live", false);
    clearTimeout(silence);
    silence = setTimeout(() => {{ lost(); open(); }}, {SILENCE * 1000});
  }}

  function lost() {{
    since ??= new Date().toISOString().slice(11, 19);
    say("No connection to fabricd since " + since + " UTC: all this may be out of date. "
      + "Trying again.", true);
  }}

  function open() {{
    source?.close();
    clearTimeout(silence);
    source = new EventSource("events");
    source.addEventListener("parts", show);
    source.addEventListener("alive", heard);
    source.onerror = () => {{
      lost();
      if (source.readyState !== EventSource.CLOSED) return;  // it tries again by itself
      clearTimeout(silence);
      silence = setTimeout(open, 5000);
    }};
  }}

  open();
}})();
"""

ICON: Final = "data:image/svg+xml," + quote(
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'>"
    f"<path stroke='{COLOURS[Level.STANDBY]}' stroke-width='4' d='M7 24 16 7 25 24z' fill='none'/>"
    f"<g fill='{COLOURS[Level.UP]}'><circle cx='7' cy='24' r='6'/><circle cx='16' cy='7' r='6'/>"
    "<circle cx='25' cy='24' r='6'/></g></svg>"
)


def _digest(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        f"script-src {_digest(SCRIPT)}",
        f"style-src {_digest(STYLE)}",
        "connect-src 'self'",
        "img-src data:",  # the icon
        "base-uri 'none'",
        "form-action 'none'",
    ]
)
"""Content-Security-Policy (CSP Level 3)."""
