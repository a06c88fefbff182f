# SPDX-License-Identifier: Apache-2.0
"""What podferry costs on the CRI path, against containerd itself in the same run."""
