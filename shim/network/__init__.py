# SPDX-License-Identifier: Apache-2.0
"""The pods' packets: what keeps them while a pod sleeps."""
