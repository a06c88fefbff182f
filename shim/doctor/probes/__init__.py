# SPDX-License-Identifier: Apache-2.0
"""The probes: each looks at the machine and returns facts; nothing of them stays behind."""
