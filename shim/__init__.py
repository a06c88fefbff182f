# SPDX-License-Identifier: Apache-2.0
"""The node service of podferry: it stands between kubelet and containerd on the CRI socket.

Vocabulary used throughout:

call      one gRPC call that kubelet (or crictl, critest) made on our socket
backend   the container runtime's own CRI socket (containerd), to which every call goes
method    a gRPC method by its full name, ``/runtime.v1.RuntimeService/StartContainer``
rule      a small class that asked to see some methods; only those are ever decoded
verdict   what a rule decides about a call: pass it, change it, answer it, refuse it, hold it
registry  what the service remembers of sandboxes and containers; rebuilt from the runtime's lists
policy    which pods podferry may act on, from settings and ``podferry.dev/`` annotations
handover  a new process of the service takes the socket from the old one without losing a call
driver    code at the edge that does I/O for a decision taken in ``shim.core``
journal   the durable record written before a step is taken (used by sleep and migration)

``shim.core`` decides and does no I/O; everything else imports inward to it.
"""
