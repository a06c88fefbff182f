# SPDX-License-Identifier: Apache-2.0
"""Tests of whole moves between real nodes."""
