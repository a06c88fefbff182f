# SPDX-License-Identifier: Apache-2.0
"""Two or more real nodes on one machine: the engine, the node image, the nodes and their kubelet.

engine     a Docker engine that answers, started by hand where none does
apt        the host's mirror and proxies
run        this run's name on everything it makes, and the removal of what dead runs left
recipe     what the node image is made of, and its tag
image      the node image: debootstrap, import, build
oci        archives of container images, written byte by byte
images     the test images, made from the node image's own files
testbed    so many nodes that know each other
node       one node: a container with its own containerd
process    commands and daemons inside a node's namespaces
unit       services of a node that was booted by systemd
containerd its configuration and life
network    the wire between nodes and the routes to each other's pods
wheel      podferry built with the node image's tools
service    the podferry service on a node: install, start, kill
cri        a typed CRI client as kubelet's
pods       descriptions of pods, and the messages kubelet sends for them
kubelet    pods as kubelet starts and deletes them
cadence    kubelet's background calls at kubelet's periods, counted
"""
