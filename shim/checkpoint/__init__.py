# SPDX-License-Identifier: Apache-2.0
"""Checkpoints and restores containers: reads what CRIU must know, keeps images, sleeps and wakes.

sleeping      sleep and wake of pods; of its parts: bed (one container), gate (its packets),
              freezer, images, journal
pods          the pods of this node; overview: what they do
anatomy       a running container as /proc, its bundle and runc's state show it
survey        its live processes, for the preflight
request       a request of shim/core/launch.py as CRIU's bytes
mount_clone   the clone of a container's mount tree that a restore binds from
cores         what is corrected in an image
system_v      System V objects of a sleeping container
stats         what CRIU has measured
"""
