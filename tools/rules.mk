# SPDX-License-Identifier: Apache-2.0
# Rules. A room (folder) becomes one static library; a program is its main.c and the libraries it may know.

ifneq ($(MAKECMDGOALS),help)
ifeq ($(shell command -v $(PKG_CONFIG) >/dev/null && $(PKG_CONFIG) --exists $(DEPS) && echo ok),)
NEED_DEPS := 1
endif
endif

objs = $(patsubst %.c,$(BUILD)/obj/%.o,$(filter-out %/main.c,$(1)))

BASE_SRC    := $(wildcard ipc/base/*.c)
IPC_SRC     := $(wildcard ipc/*.c)
KERNELS_SRC := $(wildcard kernels/*.c kernels/cpu/*.c kernels/null/*.c)
IMAGE_SRC   := $(wildcard daemon/image/*.c)
CAGE_SRC    := $(wildcard daemon/cage/*.c)
LOADER_SRC  := $(wildcard daemon/loader/*.c)
STORE_SRC   := $(wildcard daemon/store/*.c)
TEXT_SRC    := $(wildcard daemon/text/*.c daemon/text/*/*.c)
ENGINE_SRC  := $(wildcard daemon/engine/*.c)
CONTROL_SRC := $(wildcard daemon/control/*.c daemon/control/*/*.c)
CLIENT_SRC  := $(wildcard client/*.c)
CTL_SRC     := $(wildcard client/sparkctl/*.c)
BENCH_SRC   := $(wildcard tests/bench/bench-*.c)
LOAD_SRC    := $(filter-out $(BENCH_SRC) %/main.c,$(wildcard tests/bench/*.c))

# Kernels of another machine's instruction set are left out; the others get their flags, and only they.
ifneq ($(ARCH),x86_64)
KERNELS_SRC := $(filter-out %-avx2.c %-avx512.c,$(KERNELS_SRC))
endif
ifneq ($(ARCH),aarch64)
KERNELS_SRC := $(filter-out %-neon.c %-i8mm.c,$(KERNELS_SRC))
endif
%-avx2.o:   ISA_CFLAGS := -mavx2 -mfma -mf16c
%-avx512.o: ISA_CFLAGS := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mfma -mf16c
%-neon.o:   ISA_CFLAGS := -march=armv8.2-a+dotprod+fp16
%-i8mm.o:   ISA_CFLAGS := -march=armv8.2-a+dotprod+fp16+i8mm
# Kernels are unrolled far: under a sanitizer each access is checked by a call and not inline, or compiling takes minutes.
# Fuzz targets run them on what the engine has checked: there they are not instrumented.
ifeq ($(SANITIZER),)
$(BUILD)/obj/kernels/%.o: OPT_CFLAGS := -O3
# Pairs of numbers that count escapes, made vectors of two, are stored as one and read as the other.
$(BUILD)/obj/kernels/cpu/matmul-lossless-%.o: OPT_CFLAGS := -O3 -fno-tree-slp-vectorize
else ifneq ($(LIBFUZZER),)
$(BUILD)/obj/kernels/%.o: OPT_CFLAGS := -fno-sanitize=all
else ifneq ($(findstring address,$(SANITIZER)),)
ifeq ($(findstring clang,$(CC)),)
$(BUILD)/obj/kernels/%.o: OPT_CFLAGS := -O1 --param asan-instrumentation-with-call-threshold=0
# Plain C is instrumented: the templates are the same for every instruction set, and so is what they read and write. With all
# of them instrumented an engine spends half of its time in checks, and the tests of whole programs take several times as long.
$(foreach i,avx2 avx512 neon i8mm,$(eval $$(BUILD)/obj/kernels/cpu/%-$i.o: OPT_CFLAGS := -O2 -fno-sanitize=all))
endif
else
$(BUILD)/obj/kernels/%.o: OPT_CFLAGS := -O1
endif

# Control is a house of several rooms, and names the others' headers by them; nobody else may.
$(BUILD)/obj/daemon/control/%.o $(BUILD)/obj/tests/%.o: FILE_CPPFLAGS := -iquote daemon/control

# Where an installation has the CUDA backend; what stands in goals.mk is known when it is used.
$(BUILD)/obj/kernels/cuda-load.o: FILE_CPPFLAGS = -DSPARK_LIBDIR='"$(libdir)"'

PROTOS    := $(wildcard proto/*.proto)
GEN_C     := $(patsubst proto/%.proto,$(BUILD)/gen/%.pb-c.c,$(PROTOS))
GEN_H     := $(GEN_C:.c=.h)
GEN_O     := $(GEN_C:.c=.o)

lib = $(BUILD)/lib/lib$(1)-static.a
LIB_base    := $(call lib,base)
LIB_proto   := $(call lib,proto)
LIB_ipc     := $(call lib,ipc)
LIB_kernels := $(call lib,kernels)
LIB_image   := $(call lib,image)
LIB_cage    := $(call lib,cage)
LIB_loader  := $(call lib,loader)
LIB_store   := $(call lib,store)
LIB_text    := $(call lib,text)
LIB_engine  := $(call lib,engine)
LIB_control := $(call lib,control)
LIB_client  := $(call lib,client)
LIB_load    := $(call lib,load)
LIBS_ALL    := $(LIB_base) $(LIB_proto) $(LIB_ipc) $(LIB_kernels) $(LIB_image) $(LIB_cage) $(LIB_loader) $(LIB_store) $(LIB_text) \
               $(LIB_engine) $(LIB_control) $(LIB_client) $(LIB_load)

# `make ONLY="base text" build/tests/test-x` links (and so builds) just these rooms.
LIBS_TEST   := $(if $(ONLY),$(foreach l,$(ONLY),$(call lib,$(l))),$(LIBS_ALL))

PKG_LIBS := $(shell $(PKG_CONFIG) --libs $(DEPS) 2>/dev/null) -lm -ldl
BINS     := sparkd spark-loader spark-store spark-engine sparkctl spark-bench

MAIN_sparkd       := daemon/control/main.c
MAIN_spark-loader := daemon/loader/main.c
MAIN_spark-store  := daemon/store/main.c
MAIN_spark-engine := daemon/engine/main.c
MAIN_sparkctl     := client/sparkctl/main.c
MAIN_spark-bench  := tests/bench/main.c
BIN      := $(foreach b,$(BINS),$(if $(wildcard $(MAIN_$(b))),$(BUILD)/bin/$(b)))

UNIT     := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test-*.c))
FUZZ     := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz/fuzz-*.c))
SOLIB    := $(if $(CLIENT_SRC),$(BUILD)/lib/libspark.so)

# What is installed, and all that a build makes.
.PHONY: all programs deps help
programs: $(if $(NEED_DEPS),deps-check) $(BIN) $(SOLIB)
all: programs $(FUZZ)
.DEFAULT_GOAL := all

$(BUILD)/gen/%.pb-c.c $(BUILD)/gen/%.pb-c.h &: proto/%.proto $(PROTOS)
	@mkdir -p $(@D)
	$(call QUIET,PROTO)$(PROTOC_C) -Iproto --c_out=$(BUILD)/gen $<

$(BUILD)/gen/%.o: $(BUILD)/gen/%.c $(GEN_H)
	$(call QUIET,CC)$(CC) -std=gnu17 -fPIC -fvisibility=hidden $(HARDEN) $(SAN) $(DEFINES) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/obj/%.o: %.c | $(GEN_H)
	@mkdir -p $(@D)
	$(call QUIET,CC)$(CC) $(ALL_CFLAGS) $(OPT_CFLAGS) $(ISA_CFLAGS) $(FILE_CPPFLAGS) -MMD -MP -c $< -o $@

define static_lib
$(LIB_$(1)): $(2)
	@mkdir -p $$(@D)
	@rm -f $$@
	$$(call QUIET,AR)$(AR) rcs $$@ $$^
endef
$(eval $(call static_lib,base,$(call objs,$(BASE_SRC))))
$(eval $(call static_lib,proto,$(GEN_O)))
$(eval $(call static_lib,ipc,$(call objs,$(IPC_SRC))))
$(eval $(call static_lib,kernels,$(call objs,$(KERNELS_SRC))))
$(eval $(call static_lib,image,$(call objs,$(IMAGE_SRC))))
$(eval $(call static_lib,cage,$(call objs,$(CAGE_SRC))))
$(eval $(call static_lib,loader,$(call objs,$(LOADER_SRC))))
$(eval $(call static_lib,store,$(call objs,$(STORE_SRC))))
$(eval $(call static_lib,text,$(call objs,$(TEXT_SRC))))
$(eval $(call static_lib,engine,$(call objs,$(ENGINE_SRC))))
$(eval $(call static_lib,control,$(call objs,$(CONTROL_SRC))))
$(eval $(call static_lib,client,$(call objs,$(CLIENT_SRC))))
$(eval $(call static_lib,load,$(call objs,$(LOAD_SRC))))

# program: main.c, further objects, libraries it may know
define program
$(BUILD)/bin/$(1): $(call objs,$(2)) $(BUILD)/obj/$(MAIN_$(1):.c=.o) $(3)
	@mkdir -p $$(@D)
	$$(call QUIET,LD)$(CC) -pie $$(filter %.o,$$^) -Wl,--start-group $$(filter %.a,$$^) -Wl,--end-group $(ALL_LDFLAGS) $(PKG_LIBS) -o $$@
endef
$(eval $(call program,sparkd,,$(LIB_control) $(LIB_ipc) $(LIB_proto) $(LIB_base)))
$(eval $(call program,spark-loader,,$(LIB_loader) $(LIB_cage) $(LIB_image) $(LIB_kernels) $(LIB_ipc) $(LIB_base)))
$(eval $(call program,spark-store,,$(LIB_store) $(LIB_cage) $(LIB_ipc) $(LIB_base)))
$(eval $(call program,spark-engine,,$(LIB_engine) $(LIB_cage) $(LIB_text) $(LIB_image) $(LIB_kernels) $(LIB_ipc) $(LIB_proto) $(LIB_base)))
$(eval $(call program,sparkctl,$(CTL_SRC),$(LIB_client) $(LIB_ipc) $(LIB_proto) $(LIB_base)))
$(eval $(call program,spark-bench,$(BENCH_SRC),$(filter-out $(LIB_control),$(LIBS_ALL))))

$(BUILD)/lib/libspark.so: $(call objs,$(CLIENT_SRC)) $(LIB_ipc) $(LIB_proto) $(LIB_base) $(wildcard client/libspark.map)
	@mkdir -p $(@D)
	$(call QUIET,LD)$(CC) -shared -Wl,-soname,libspark.so.1 $(if $(wildcard client/libspark.map),-Wl$(comma)--version-script=client/libspark.map) \
	    $(filter %.o,$^) $(filter %.a,$^) $(ALL_LDFLAGS) -Wl,-z,defs $(shell $(PKG_CONFIG) --libs libprotobuf-c) -o $@
	@ln -sf libspark.so $(@D)/libspark.so.1
comma := ,

$(BUILD)/tests/test-%: $(BUILD)/obj/tests/unit/test-%.o $(LIBS_TEST)
	@mkdir -p $(@D)
	$(call QUIET,LD)$(CC) $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(ALL_LDFLAGS) $(PKG_LIBS) -lcmocka $(TEST_LIBS) -o $@

# It fails what is allocated.
$(BUILD)/tests/test-prefix-nomem: TEST_LIBS := -Wl,--wrap=malloc,--wrap=calloc,--wrap=reallocarray
# It fails what is written down.
$(BUILD)/tests/test-store-file: TEST_LIBS := -Wl,--wrap=write,--wrap=fsync,--wrap=renameat,--wrap=unlinkat

# Shared objects that it opens.
$(BUILD)/tests/test-backend-load: $(patsubst tests/unit/objects/%.c,$(BUILD)/tests/%.so,$(wildcard tests/unit/objects/*.c))
$(BUILD)/tests/test-cuda-nvml: $(BUILD)/tests/object-nvml.so
$(BUILD)/tests/object-nvml.so: private ALL_LDFLAGS += -Wl,-soname,libnvidia-ml.so.1
$(BUILD)/tests/%.so: $(BUILD)/obj/tests/unit/objects/%.o
	@mkdir -p $(@D)
	$(call QUIET,LD)$(CC) -shared $< $(ALL_LDFLAGS) -o $@

# Preloaded by hand: make hesitate
$(BUILD)/tests/hesitate.so: $(BUILD)/obj/tests/hesitate.o
	@mkdir -p $(@D)
	$(call QUIET,LD)$(CC) -shared $< $(ALL_LDFLAGS) -o $@

# Fuzz targets: LLVMFuzzerTestOneInput and, unless built for libFuzzer, a main that replays files.
$(BUILD)/fuzz/fuzz-%: $(BUILD)/obj/tests/fuzz/fuzz-%.o $(if $(LIBFUZZER),,$(BUILD)/obj/tests/fuzz/replay.o) $(LIBS_TEST)
	@mkdir -p $(@D)
	$(call QUIET,LD)$(CC) $(if $(LIBFUZZER),-fsanitize=fuzzer) $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(ALL_LDFLAGS) $(PKG_LIBS) -o $@

include tools/cuda-host.mk

.PHONY: unit
unit: $(BIN) $(UNIT)
.SECONDARY:
-include $(shell find $(BUILD)/obj $(BUILD)/gen -name '*.d' 2>/dev/null)
