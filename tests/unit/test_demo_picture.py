# SPDX-License-Identifier: Apache-2.0
"""The demo's picture is a document that a browser takes, and its dots are where they belong."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from tests.demo.picture import HEIGHT, Panel, draw

SVG = "{http://www.w3.org/2000/svg}"


def test_each_point_and_each_move_is_drawn_once_and_inside() -> None:
    points = [(0.0, 10, 0.4), (1.0, 10, 250.0), (2.0, 10, 99_999.0)]
    panels = [Panel("a < b", points, [(0.5, 1.2)]), Panel("other", points[:1], [])]
    root = ET.fromstring(draw(panels))
    dots = root.findall(f"{SVG}circle")
    assert len(dots) == 4
    assert [one.get("class") for one in dots] == ["dot", "late", "late", "dot"]
    assert all(0 <= float(one.get("cy", "-1")) <= 2 * HEIGHT for one in dots)
    heights = [float(one.get("cy", "0")) for one in dots[:3]]
    assert heights == sorted(heights, reverse=True)  # a longer wait stands higher
    assert len(root.findall(f"{SVG}rect")) == 1
