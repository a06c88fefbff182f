/* SPDX-License-Identifier: Apache-2.0 */
/* Makes an authority and two nodes' certificates in a directory, for the tests of streams. */
#pragma once

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>

#include "check.h"

static inline X509 *tls_certificate(const char *name, EVP_PKEY *key, X509 *issuer,
				    EVP_PKEY *issuer_key)
{
	X509 *certificate = X509_new();
	X509_NAME *subject = X509_get_subject_name(certificate);
	X509V3_CTX ctx;
	X509_EXTENSION *extension;
	char alternative[64];

	X509_set_version(certificate, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(certificate), issuer ? 2 : 1);
	X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
	X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
	X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1,
				   0);
	X509_set_issuer_name(certificate, issuer ? X509_get_subject_name(issuer) : subject);
	X509_set_pubkey(certificate, key);
	X509V3_set_ctx(&ctx, issuer ? issuer : certificate, certificate, NULL, NULL, 0);
	snprintf(alternative, sizeof(alternative), "DNS:%s", name);
	extension =
		issuer ? X509V3_EXT_conf_nid(NULL, &ctx, NID_subject_alt_name, alternative)
		       : X509V3_EXT_conf_nid(NULL, &ctx, NID_basic_constraints, "critical,CA:TRUE");
	CHECK(extension && X509_add_ext(certificate, extension, -1));
	X509_EXTENSION_free(extension);
	CHECK(X509_sign(certificate, issuer_key, EVP_sha256()));
	return certificate;
}

static inline void tls_write(const char *directory, const char *name, X509 *certificate,
			     EVP_PKEY *key)
{
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s.crt", directory, name);
	file = fopen(path, "w");
	CHECK(file && PEM_write_X509(file, certificate));
	fclose(file);
	snprintf(path, sizeof(path), "%s/%s.key", directory, name);
	file = fopen(path, "w");
	CHECK(file && PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL));
	fclose(file);
}

/* DIRECTORY gets authority.crt, source.crt, source.key, target.crt and target.key. */
static inline void tls_make(const char *directory)
{
	static const char *const nodes[] = {"source", "target"};
	EVP_PKEY *authority_key = EVP_EC_gen("P-256");
	X509 *authority = tls_certificate("authority", authority_key, NULL, authority_key);

	tls_write(directory, "authority", authority, authority_key);
	for (unsigned at = 0; at < 2; at++) {
		EVP_PKEY *key = EVP_EC_gen("P-256");
		X509 *certificate = tls_certificate(nodes[at], key, authority, authority_key);

		tls_write(directory, nodes[at], certificate, key);
		X509_free(certificate);
		EVP_PKEY_free(key);
	}
	X509_free(authority);
	EVP_PKEY_free(authority_key);
}
