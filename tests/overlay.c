// SPDX-License-Identifier: GPL-2.0+
/*
 * An overlay file system, as of a container: to be preloaded (LD_PRELOAD).
 *
 * BEGINNING is given when this is compiled: folders whose path begins with it are of the
 * lower layer, so they cannot be renamed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int rename(const char *from, const char *to)
{
	struct stat info;

	if (!strncmp(from, BEGINNING, strlen(BEGINNING)) && !lstat(from, &info) &&
	    S_ISDIR(info.st_mode)) {
		errno = EXDEV;
		return -1;
	}
	return ((__typeof__(&rename))dlsym(RTLD_NEXT, "rename"))(from, to);
}
