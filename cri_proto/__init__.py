# SPDX-License-Identifier: Apache-2.0
"""The protobuf messages podferry speaks: the parts of CRI and containerd's API it uses, and its own."""
