# SPDX-License-Identifier: Apache-2.0
"""Installs and removes podferry on a node: pure planning in most modules, effects in two.

Order of reading: ``tree`` (what the planner may see of a node), ``yaml_edit`` and ``flag_edit``
(one value changed, every other byte kept), ``unit_files`` and ``kubelet`` (where kubelet takes its
CRI endpoint from), ``plan`` and ``unplan`` (what install and uninstall would do), ``manifest``
(the journal and the memory of what was there before). Only ``disk`` and ``machine`` change
anything; ``apply`` drives them.
"""
