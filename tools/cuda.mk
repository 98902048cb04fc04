# SPDX-License-Identifier: Apache-2.0
# libspark-cuda.so, the backend that the engine opens at run time. It is built where there is a CUDA compiler, unless CUDA=0; not
# for another machine and not with sanitizers. The CUDA runtime is in it; the driver's library is opened by the runtime.

# nvcc in the path, or CUDA_HOME's, or where NVIDIA's packages have it. NVCC may be several words ("nvcc -ccbin g++-13").
ifeq ($(origin NVCC),undefined)
NVCC      := $(or $(shell command -v nvcc 2>/dev/null),$(wildcard $(or $(CUDA_HOME),/usr/local/cuda)/bin/nvcc))
endif
ifeq ($(origin CUDA_HOME),undefined)
CUDA_HOME := $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v $(filter %nvcc,$(NVCC)) 2>/dev/null)))
endif
CUDA      ?= $(if $(NVCC),1,0)
ifneq ($(CROSS)$(SANITIZER),)
override CUDA := 0
else ifeq ($(CUDA)$(NVCC),1)
$(error CUDA=1, but there is no nvcc: set NVCC or CUDA_HOME)
endif

# Machine code for these, and PTX for what comes after them (compute_90: the oldest that has programmatic dependent launch).
CUDA_RELEASE := $(if $(NVCC),$(shell $(NVCC) --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p'))
CUDA_ARCHS ?= 80 86 89 90 120 $(if $(filter-out 12.8,$(CUDA_RELEASE)),121)
CUDA_PTX   ?= 90

CUDA_CU  := $(wildcard kernels/cuda/*.cu)
CUDA_C   := $(wildcard kernels/cuda/*.c)
CUDA_OBJ := $(CUDA_CU:%=$(BUILD)/obj/%.o)
LIB_cuda := $(if $(filter 1,$(CUDA)),$(if $(CUDA_C),$(BUILD)/lib/libspark-cuda.so))

CUDA_CODE = $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
            $(foreach a,$(CUDA_PTX),-gencode arch=compute_$(a),code=compute_$(a))
# No contraction, as everywhere. ptxas says what each kernel uses, in a log beside the object: tools/check-cuda-resources.py.
# Packed for size, machine code is a quarter of what it is otherwise, and is made no slower.
NVCC_FLAGS = -std=c++17 -O3 -fmad=false $(CUDA_CODE) -compress-mode=size -Ikernels/cuda/ptx -I. -Iipc \
             -Werror all-warnings -Xptxas -v,-Werror -Xcompiler -Wall,-Wextra,-Wno-unused-parameter,-fPIC \
             -Xcompiler -fvisibility=hidden,-ffp-contract=off,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics \
             $(addprefix -Xcompiler ,$(HARDEN)) $(NVCCFLAGS)

programs: $(LIB_cuda)

.PHONY: cuda
cuda: $(BUILD)/lib/libspark-cuda.so

# These have instructions of one family of GPUs, and are there for its members alone; CUDA 12.8 knows but one of them.
$(BUILD)/obj/kernels/cuda/mm-fp8.cu.o: private CUDA_CODE = $(if $(filter 12.8,$(CUDA_RELEASE)),-gencode arch=compute_120a$(comma)code=sm_120a,\
    -gencode arch=compute_120f$(comma)code=sm_120f -gencode arch=compute_120f$(comma)code=sm_121f)

# Objects are made again when their flags change.
.PHONY: FORCE
$(BUILD)/obj/kernels/cuda/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(NVCC) $(NVCC_FLAGS)' | cmp -s - $@ || echo '$(NVCC) $(NVCC_FLAGS)' >$@

$(BUILD)/obj/%.cu.o: %.cu $(BUILD)/obj/kernels/cuda/flags
	@mkdir -p $(@D)
	$(call QUIET,NVCC)$(NVCC) $(NVCC_FLAGS) -MMD -MP -MF $(@:.o=.d) -c $< -o $@ >$@.log 2>&1 || { cat $@.log >&2; rm -f $@; exit 1; }

$(CUDA_C:%.c=$(BUILD)/obj/%.o): FILE_CPPFLAGS := -isystem $(CUDA_HOME)/include

# Format descriptions and checked arithmetic come from the static libraries; nothing but the entry is seen from outside.
CUDA_LIBDIRS = $(addprefix -L,$(wildcard $(addprefix $(CUDA_HOME)/,lib64 lib targets/$(ARCH)-linux/lib targets/sbsa-linux/lib)))
$(BUILD)/lib/libspark-cuda.so: $(call objs,$(CUDA_C)) $(CUDA_OBJ) $(LIB_kernels) $(LIB_base) kernels/cuda/libspark-cuda.map
	@mkdir -p $(@D)
	$(call QUIET,LD)$(CC) -shared -Wl,--version-script=kernels/cuda/libspark-cuda.map $(filter %.o,$^) \
	    -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(CUDA_LIBDIRS) -lcudart_static -ldl -lrt -lm \
	    $(ALL_LDFLAGS) -Wl,-z,defs -o $@

# The kernels' tests on this machine's device instead of the emulated one: those that tell the emulator no more than
# tests/gpu/device.c has an answer for, and do not touch device memory from the host.
GPU_TESTS := $(patsubst tests/unit/%.c,$(BUILD)/gpu/%,$(if $(filter 1,$(CUDA)),$(shell \
    grep -LE 'emu_(fail|hang|get_|configure|set_device|set_lazy)|cuda-backend-fixture|reference-fixture|test-kernels' tests/unit/test-cuda-*.c)))
$(BUILD)/gpu/test-cuda-mm%: TEST_LIBS := -Wl,--wrap=cudaMalloc,--wrap=cudaFree

# What benchmarks compare with, where the toolkit has it.
CUBLAS := $(if $(and $(filter 1,$(CUDA)),$(wildcard $(CUDA_HOME)/include/cublasLt.h)),$(BUILD)/gpu/cublas)

.PHONY: gpu-tests
gpu-tests: $(GPU_TESTS) $(CUBLAS)

GPU_CC = $(call QUIET,CC)$(CC) $(ALL_CFLAGS) -isystem $(CUDA_HOME)/include -MMD -MP -c $< -o $@

$(BUILD)/gpu/%.o: tests/unit/%.c | $(GEN_H)
	@mkdir -p $(@D)
	$(GPU_CC)

$(BUILD)/gpu/%.o: tests/gpu/%.c
	@mkdir -p $(@D)
	$(GPU_CC)

$(BUILD)/gpu/cublas: $(BUILD)/gpu/cublas.o
	$(call QUIET,LD)$(CC) $< $(CUDA_LIBDIRS) $(patsubst -L%,-Wl$(comma)-rpath$(comma)%,$(CUDA_LIBDIRS)) -lcublasLt -lcudart_static -ldl -lrt -lm \
	    $(ALL_LDFLAGS) -o $@

$(BUILD)/gpu/test-cuda-%: $(BUILD)/gpu/test-cuda-%.o $(BUILD)/gpu/device.o $(call objs,$(CUDA_C)) $(CUDA_OBJ) $(LIB_kernels) $(LIB_base)
	$(call QUIET,LD)$(CC) $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(CUDA_LIBDIRS) -lcudart_static -ldl -lrt -lm \
	    -lcmocka $(TEST_LIBS) $(ALL_LDFLAGS) -o $@
