// SPDX-License-Identifier: GPL-2.0+
/*
 * A disk that is full, or fails, below one folder: to be preloaded (LD_PRELOAD).
 *
 * FOLDER, WHEN and ERROR are given when this is compiled: what is created or
 * written below FOLDER fails with ERROR as long as the file WHEN exists; an
 * empty WHEN means always.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int failing(void)
{
	return !*WHEN || !access(WHEN, F_OK);
}

static int below(const char *path)
{
	return !strncmp(path, FOLDER, strlen(FOLDER));
}

static int bad_path(const char *path)
{
	return path && below(path) && failing();
}

static int bad_fd(int fd)
{
	char link[64], path[PATH_MAX];
	int saved = errno;
	ssize_t len;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, path, sizeof(path) - 1);
	errno = saved;
	if (len <= 0)
		return 0;
	path[len] = '\0';
	return bad_path(path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *buf, size_t count)
{
	if (bad_fd(fd)) {
		errno = ERROR;
		return -1;
	}
	return REAL(write)(fd, buf, count);
}

int mkdir(const char *path, mode_t mode)
{
	if (bad_path(path)) {
		errno = ERROR;
		return -1;
	}
	return REAL(mkdir)(path, mode);
}

static int open_mode(int flags, va_list args)
{
	return flags & (O_CREAT | O_TMPFILE) ? va_arg(args, int) : 0;
}

#define OPEN(name)							\
int name(const char *path, int flags, ...)				\
{									\
	va_list args;							\
	int mode;							\
									\
	va_start(args, flags);						\
	mode = open_mode(flags, args);					\
	va_end(args);							\
	if (flags & O_CREAT && bad_path(path)) {			\
		errno = ERROR;						\
		return -1;						\
	}								\
	return REAL(name)(path, flags, mode);				\
}

OPEN(open)
OPEN(open64)

#define STATVFS(name, type)						\
int name(const char *path, struct type *buf)				\
{									\
	int ret = REAL(name)(path, buf);				\
									\
	if (!ret && bad_path(path))					\
		buf->f_bavail = buf->f_bfree = 0;			\
	return ret;							\
}

STATVFS(statvfs, statvfs)
STATVFS(statvfs64, statvfs64)
