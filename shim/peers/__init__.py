# SPDX-License-Identifier: Apache-2.0
"""Speaks with other nodes: identities, the peer service and its clients."""
