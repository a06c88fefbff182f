# SPDX-License-Identifier: Apache-2.0
"""All unit tests together take less than ten seconds; `HYPOTHESIS_PROFILE=long` looks further."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("unit", max_examples=40, deadline=None)
settings.register_profile("long", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unit"))
