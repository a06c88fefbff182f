# SPDX-License-Identifier: Apache-2.0
"""The judges: pure functions from facts to verdicts, one for each check."""
