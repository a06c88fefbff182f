# SPDX-License-Identifier: Apache-2.0
"""Decisions: no sockets, no files, no clock, no gRPC; everything else imports inward to here."""
