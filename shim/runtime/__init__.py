# SPDX-License-Identifier: Apache-2.0
"""Drivers of what runs containers: the runtime behind the CRI socket."""
