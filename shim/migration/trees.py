# SPDX-License-Identifier: Apache-2.0
"""Sends the files of a pod in rounds, and takes them; the trees are those of docs/files.md."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cri_proto import peer_pb2 as peer
