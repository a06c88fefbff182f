# SPDX-License-Identifier: Apache-2.0
"""The memory of a moving pod: what is dirty, how it travels, where it waits."""
