# SPDX-License-Identifier: Apache-2.0
"""Drives moves: the source's side, the target's side, their journal."""
