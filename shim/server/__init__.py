# SPDX-License-Identifier: Apache-2.0
"""The service's edges: the CRI socket, the runtime behind it, control, handover and metrics."""
