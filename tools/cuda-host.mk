# SPDX-License-Identifier: Apache-2.0
# The CUDA backend for the host: kernels/cuda compiled by the host's compilers against the emulator in tests/cuda-host. It needs
# neither nvcc nor anything else of CUDA. Not with ThreadSanitizer, which does not know the emulator's threads.

CXX = $(CROSS)g++

EMU_SRC      := $(wildcard tests/cuda-host/*.c)
EMU_ASM      := $(wildcard tests/cuda-host/*.S)
EMU_TEST_CU  := $(wildcard tests/cuda-host/*.cu)
CUDA_EMU_C   := $(wildcard kernels/cuda/*.c)
CUDA_EMU_CU  := $(wildcard kernels/cuda/*.cu)
EMU_INCLUDE  := -Itests/cuda-host/include
EMU_HAS      := $(if $(findstring thread,$(SANITIZER))$(LIBFUZZER),,1)

emu_objs = $(patsubst %,$(BUILD)/emu/%.o,$(basename $(1)))
LIB_emu         := $(call lib,cuda-emu)
LIB_emu_kernels := $(call lib,cuda-kernels)
SO_emu  := $(if $(EMU_HAS),$(if $(CUDA_EMU_C),$(BUILD)/lib/libspark-cuda-emu.so))

ifeq ($(EMU_HAS),)
UNIT := $(filter-out $(BUILD)/tests/test-cuda-%,$(UNIT))
endif

# Kernels are unrolled far, and the optimizer has little to win here: what it leaves alone compiles in half of the time.
EMU_OPT      := $(if $(SANITIZER),-O1 -g1,-O2 -g1)
EMU_CXXFLAGS := -x c++ -std=gnu++17 -pthread -fPIC -ffp-contract=off -fvisibility=hidden -fno-exceptions -fno-rtti \
                -fno-threadsafe-statics -Wall -Wextra -Werror -Wno-unused-parameter -Wno-unused-function -Wno-unused-variable -Wno-unknown-pragmas \
                -Wno-missing-field-initializers $(HARDEN) $(SAN) $(if $(SANITIZER),-fno-sanitize=vptr) $(DEFINES) $(CPPFLAGS) $(CFLAGS) $(EMU_OPT)

$(BUILD)/emu/%.o: %.cu
	@mkdir -p $(@D)
	$(call QUIET,CXX)$(CXX) $(EMU_INCLUDE) $(EMU_CXXFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/emu/%.o: %.c | $(GEN_H)
	@mkdir -p $(@D)
	$(call QUIET,CC)$(CC) $(EMU_INCLUDE) $(ALL_CFLAGS) $(EMU_C_OPT) -MMD -MP -c $< -o $@

$(BUILD)/emu/%.o: %.S
	@mkdir -p $(@D)
	$(call QUIET,AS)$(CC) -c $< -o $@

$(BUILD)/emu/tests/cuda-host/%.o: EMU_C_OPT := $(EMU_OPT)
$(BUILD)/emu/tests/cuda-host/emu-mma.o: EMU_C_OPT := -O3 -fno-sanitize=all

$(LIB_emu): $(call emu_objs,$(EMU_SRC) $(EMU_ASM) $(EMU_TEST_CU))
$(LIB_emu_kernels): $(call emu_objs,$(CUDA_EMU_C) $(CUDA_EMU_CU))
$(LIB_emu) $(LIB_emu_kernels):
	@mkdir -p $(@D)
	@rm -f $@
	$(call QUIET,AR)$(AR) rcs $@ $^

# As the engine opens the real one: it brings what it needs of other rooms along.
$(BUILD)/lib/libspark-cuda-emu.so: $(call emu_objs,$(EMU_SRC) $(EMU_ASM) $(CUDA_EMU_C) $(CUDA_EMU_CU)) $(LIB_kernels) $(LIB_base)
	@mkdir -p $(@D)
	$(call QUIET,LD)$(CC) -shared $(filter %.o,$^) $(filter %.a,$^) $(ALL_LDFLAGS) -lm -o $@

$(BUILD)/obj/tests/unit/test-cuda-%.o: ISA_CFLAGS := $(EMU_INCLUDE)

$(BUILD)/tests/test-cuda-%: $(BUILD)/obj/tests/unit/test-cuda-%.o $(LIB_emu_kernels) $(LIB_emu) $(LIBS_TEST)
	@mkdir -p $(@D)
	$(call QUIET,LD)$(CC) $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(ALL_LDFLAGS) $(PKG_LIBS) -lcmocka $(TEST_LIBS) -o $@

# It delays, refuses and counts threads, and says how many cores there are.
$(BUILD)/tests/test-cuda-upload: TEST_LIBS := -Wl,--wrap=pthread_create,--wrap=pthread_join,--wrap=sched_getaffinity

# The emulator's own tests, without the kernels.
$(filter $(BUILD)/tests/test-cuda-emu%,$(UNIT)): $(BUILD)/tests/%: $(BUILD)/obj/tests/unit/%.o $(LIB_emu) $(LIB_base)
	@mkdir -p $(@D)
	$(call QUIET,LD)$(CC) $(filter %.o,$^) $(filter %.a,$^) $(ALL_LDFLAGS) -lcmocka -o $@

# What integration tests take for a device; programs do without it.
unit integration-test: $(SO_emu)
-include $(shell find $(BUILD)/emu -name '*.d' 2>/dev/null)
