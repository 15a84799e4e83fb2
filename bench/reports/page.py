"""The frame that every HTML page shares: one file, no network, light and dark, wide tables in boxes that scroll by themselves."""

from __future__ import annotations

import html

STYLE = """
:root{color-scheme:light dark;--back:#fff;--ink:#222;--grey:#666;--line:#888;--tint:#eef4ff}
@media(prefers-color-scheme:dark){:root{--back:#181818;--ink:#ddd;--grey:#9a9a9a;--tint:#243044}}
body{font:14px/1.5 system-ui,sans-serif;margin:clamp(.8rem,3vw,2rem);background:var(--back);color:var(--ink)}
h1,h2,h3{line-height:1.25;overflow-wrap:anywhere}p,li,nav{max-width:60rem}a{color:inherit}.grey{color:var(--grey)}
nav a{margin-right:1rem;display:inline-block}summary{cursor:pointer}details{margin:0 0 1rem}
pre{background:var(--tint);border-radius:6px;padding:.5rem .8rem;max-height:14rem;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere}
pre code{display:block;padding-left:2em;text-indent:-2em}
.wide{overflow:auto;width:fit-content;max-width:100%;max-height:90vh;margin:0 0 1rem}table{border-collapse:separate;border-spacing:0}
td,th{padding:4px 10px;text-align:right;white-space:nowrap;background:var(--back)}
thead th{position:sticky;top:0;z-index:1;vertical-align:bottom;white-space:normal;border-bottom:2px solid var(--line)}
tr>:first-child{position:sticky;left:0}thead tr>:first-child{z-index:2}tbody tr:hover>*{background:var(--tint)}
.text{text-align:left}td.long{white-space:normal;min-width:18rem}
th button{all:unset;cursor:pointer;font-weight:600}th button:focus-visible{outline:2px solid #36c}
th[aria-sort=ascending] button::after{content:" ▴"}th[aria-sort=descending] button::after{content:" ▾"}
@media print{.wide,pre{overflow:visible;max-height:none}}
"""


def framed(title: str, body: str, script: str = "", style: str = "") -> str:
    """body, script and style are trusted; whoever writes them has escaped what came from records."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>{html.escape(title)}</title>'
    return f'<!doctype html><html lang="en">{head}<style>{STYLE}{style}</style>\n{body}<script>{script}</script></html>\n'
