# SPDX-License-Identifier: Apache-2.0
"""What sleep and wake cost, measured on a real node."""
