# SPDX-License-Identifier: Apache-2.0
"""Checkpoints and restores containers: reads what CRIU must know, keeps images, sleeps and wakes.

anatomy   a running container as /proc, its bundle and runc's state show it
request   a request of shim/core/launch.py as CRIU's bytes
mount_clone   the clone of a container's mount tree that a restore binds from
stats     what CRIU has measured
"""
