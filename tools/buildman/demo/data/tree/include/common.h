/* SPDX-License-Identifier: GPL-2.0+ */
#ifndef __COMMON_H
#define __COMMON_H

#include <config.h>

int board_init(void);
const char *env_get_default(void);

#endif
