/* SPDX-License-Identifier: Apache-2.0 */
int pf_images_view(const char *images, const char *view, struct pf_error *err);
int pf_images_shorten(const char *images, struct pf_error *err);
int pf_images_add_left_out(const char *images, const char *path, int pid, int image_pid,
			   uint64_t *pages, struct pf_error *err);
