"""The certificate as a page of its own, or as a part of another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlpot.atomic_files import write_whole
from mlpot.html.page import Html, Kind, aside, facts, page, tag

DECADES = 6  # of measurement over bar, that the meter spans below the bar


def write_page(certificate: Mapping[str, Any], path: str | Path) -> None:
    """Write a certificate, given as in its JSON file, as a page."""
    text = page(f"Certificate of {certificate['subject']}", *certified(certificate), verdict=verdict(certificate))
    write_whole(Path(path), text.encode())


def verdict(certificate: Mapping[str, Any]) -> tuple[Kind, str]:
    """In a word."""
    return ("good", "passed") if certificate["passed"] else ("error", "not passed")


def certified(certificate: Mapping[str, Any]) -> list[Html]:
    """What was checked, with each figure and bar; what does not apply; when and by whom."""
    c, checks = certificate, certificate["checks"]
    n = sum(check["passed"] for check in checks)
    structures = ", ".join(f"{name} ({formula})" for name, formula in c["structures"].items())
    head = tag("tr", *(tag(k, v) for k, v in zip(KINDS, HEAD, strict=True)))
    left_out = {"Does not apply": c["not_applicable"], "Not run here": c.get("not_run", {})}  # older files lack it
    summary = (
        f"{n} of {len(checks)} checks passed, level {c['level']}, computed in {c['precision']}, on {structures}."
    )
    meter = "The meter is logarithmic and full at the bar; each row has the measurement closest to its bar."
    return [
        tag("p", summary),
        tag('div class="scroll"', tag("table", head, *map(_row, checks))),
        aside(meter),
        *(part for title, why in left_out.items() if why for part in (tag("h3", title), facts(why))),
        aside(f"mlpot {c['mlpot']}, {c['created']}, {c['seconds']:g} s"),
    ]


HEAD = ("", "check", "figure", "bar", "", "what and where")
KINDS = ("th", "th", 'th class="number"', 'th class="number"', "th", "th")


def _row(check: Mapping[str, Any]) -> Html:
    kind, mark = ("good", "✓") if check["passed"] else ("error", "✗")
    where = [" ", tag("small", check["where"])] if check["where"] else []
    note = [Html("<br>"), tag("small", check["note"])] if check["note"] else []
    width = f'div style="width:{100 * _fullness(check):.0f}%"'
    return tag(
        "tr",
        tag(f'td class="mark {kind}"', f"{mark} {check['id']}"),
        tag("td", check["name"]),
        *(tag('td class="number"', _number(check[key])) for key in ("figure", "bar")),
        tag("td", tag(f'div class="meter {kind}"', tag(width))),
        tag("td", check["what"], *where, *note),
    )


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2g}"


def _fullness(check: Mapping[str, Any]) -> float:
    """Length of the meter: 1 at the bar and beyond, 0 at a millionth of the bar."""
    if not check["passed"]:
        return 1.0
    if not check["figure"] or not check["bar"]:
        return 0.0
    return max(0.0, 1 + math.log10(check["figure"] / check["bar"]) / DECADES)
