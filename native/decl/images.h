/* SPDX-License-Identifier: Apache-2.0 */
int pf_images_view(const char *images, const char *view, struct pf_error *err);
