/* SPDX-License-Identifier: Apache-2.0 */
int pf_probe_userfaultfd(uint64_t *features, struct pf_error *err);
