# SPDX-License-Identifier: Apache-2.0
"""Names the fixture files; each holds one theme."""

from __future__ import annotations

pytest_plugins = ["tests.fix_nodes"]
