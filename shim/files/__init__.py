# SPDX-License-Identifier: Apache-2.0
"""Transfers trees of files: writable layers and emptyDir volumes, in rounds while a pod runs."""
