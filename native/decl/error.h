/* SPDX-License-Identifier: Apache-2.0 */
struct pf_error {
	int code;
	char message[...];
};
