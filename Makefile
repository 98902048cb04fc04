# SPDX-License-Identifier: Apache-2.0
# sparkd: `make help` says what there is. Everything made goes below $(BUILD).

-include config.mak

BUILD   ?= build
PREFIX  ?= /usr/local
DESTDIR ?=
VERSION := 0.1.0

CC       = $(CROSS)gcc
AR       = $(CROSS)gcc-ar
PKG_CONFIG ?= pkg-config
PROTOC_C ?= protoc-c
PYTHON   ?= /usr/bin/python3
ifneq ($(CROSS),)
TRIPLET := $(patsubst %-,%,$(CROSS))
export PKG_CONFIG_LIBDIR := /usr/lib/$(TRIPLET)/pkgconfig:/usr/share/pkgconfig
endif

ARCH := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine 2>/dev/null)))
DEPS := libsystemd libprotobuf-c libconfig liburing libseccomp sqlite3 ncursesw nettle json-c libxxhash
QUIET = $(if $(V),,@echo "  $(1)	$@";)

CFLAGS   ?= -O2 -g
# Ours, and apart from CPPFLAGS, CFLAGS and LDFLAGS, which are whoever builds it to set (as packages do).
DEFINES  := -D_GNU_SOURCE -DSPARK_VERSION='"$(VERSION)"' -I. -Iipc -I$(BUILD)/gen
WARN     := -Wall -Wextra -Werror -Wstrict-prototypes -Wmissing-prototypes -Wshadow -Wundef -Wvla -Wpointer-arith \
            -Wformat=2 -Wimplicit-fallthrough -Wno-unused-parameter
HARDEN   := -fstack-protector-strong -fno-strict-aliasing -fno-common
ifeq ($(SANITIZER),)
HARDEN   += $(if $(findstring _FORTIFY_SOURCE,$(CPPFLAGS) $(CFLAGS)),,-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2) -fstack-clash-protection
ifeq ($(ARCH),x86_64)
HARDEN   += -fcf-protection
else ifeq ($(ARCH),aarch64)
HARDEN   += -mbranch-protection=standard
endif
else
SAN      := -fsanitize=$(SANITIZER) -fno-omit-frame-pointer -fno-sanitize-recover=all
endif
# No contraction: fused multiply-adds are written where they are meant, so that every kernel gives the same bits.
ALL_CFLAGS  = -std=gnu17 -pthread -fPIC -ffp-contract=off -fvisibility=hidden $(WARN) $(HARDEN) $(SAN) $(DEFINES) $(CPPFLAGS) \
              $(shell $(PKG_CONFIG) --cflags $(DEPS) 2>/dev/null) $(CFLAGS)
ALL_CFLAGS := $(ALL_CFLAGS)
ALL_LDFLAGS := -pthread -Wl,-z,relro,-z,now -Wl,--as-needed $(SAN) $(LDFLAGS)

include tools/rules.mk
include tools/cuda.mk
include tools/goals.mk
