# SPDX-License-Identifier: Apache-2.0
"""Two or more real nodes on one machine: the engine, the node image, the nodes and their kubelet.

engine     a Docker engine that answers, started by hand where none does
run        this run's name on everything it makes, and the removal of what dead runs left
recipe     what the node image is made of, and its tag
image      the node image: debootstrap, import, build
oci        archives of container images, written byte by byte
images     the test images, made from the node image's own files
node       one node: a container with its own containerd
network    the wire between nodes and the routes to each other's pods
service    the podferry service on a node: wheel, install, start, kill
cri        a typed CRI client as kubelet's
kubelet    pods as kubelet starts and deletes them
cadence    kubelet's background calls at kubelet's periods, counted
"""
