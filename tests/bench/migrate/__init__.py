# SPDX-License-Identifier: Apache-2.0
"""What a move costs, as its clients feel it."""
