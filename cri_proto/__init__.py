# SPDX-License-Identifier: Apache-2.0
"""The protobuf messages podferry speaks: the parts of CRI that it uses, and its own."""
