# SPDX-License-Identifier: Apache-2.0
# What people and CI call: help, demo, test and its parts, install, clean.

.PHONY: help deps demo test check unit-test fuzz-test integration-test system-test hesitate deb package-test asan tsan cross \
    cuda-check gpu-check lint fuzz clean install uninstall

help:
	@echo "make              build everything below $(BUILD)/"
	@echo "make demo         install what is missing, build, start a private daemon and stream an answer"
	@echo "make test         everything that CI runs (36 to 40 minutes on two cores)"
	@echo "make check        the quick part of it: unit, fuzz corpora and integration tests of one build"
	@echo "make system-test  the installed service under a real systemd, in a container (as root)"
	@echo "make hesitate     integration tests with slow programs: PROGRAMS=gdbus,sparkd ONLY=test_bus (docs/testing.md)"
	@echo "make deb          Debian packages, in $(BUILD)/deb (docs/packaging.md)"
	@echo "make package-test install, upgrade and purge them in such a container; lintian"
	@echo "make cuda-check   that the CUDA kernels compile and spill no registers (needs nvcc, no GPU)"
	@echo "make gpu-check    the CUDA backend on this machine's GPU, against the CPU backend; GPU_CHECK=\"--minutes 4\""
	@echo "make asan tsan cross lint   the other parts: sanitizers, aarch64 under qemu, clang-tidy and cppcheck"
	@echo "make fuzz         fuzz targets for libFuzzer below $(BUILD)-fuzz/fuzz/"
	@echo "make deps         install the packages that building needs (apt)"
	@echo "make install      to DESTDIR=$(DESTDIR) PREFIX=$(PREFIX)"
	@echo "make clean        remove what was built"
	@echo
	@echo "variables: BUILD= CC= CFLAGS= LDFLAGS= SANITIZER=address,undefined|thread CROSS=aarch64-linux-gnu-"
	@echo "           CUDA=0|1 (here: $(CUDA)) NVCC= CUDA_HOME= CUDA_ARCHS=\"$(CUDA_ARCHS)\""
	@echo "           V=1 shows commands; settings may stand in config.mak"

deps:
	@tools/deps.sh build

.PHONY: deps-check
deps-check:
	@tools/deps.sh --check build || { echo "run 'make deps' first" >&2; exit 1; }

# Whoever wants to see it now does not wait for the machine code of other machines' GPUs.
GPUS      = $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -dc '0-9\n' | sort -u)
GPU_CODE  = $(shell $(NVCC) --list-gpu-code 2>/dev/null | tr -dc '0-9\n')
GPU_ARCHS = $(if $(filter file,$(origin CUDA_ARCHS)),$(if $(GPUS),CUDA_ARCHS="$(filter $(GPU_CODE),$(GPUS))"))
DEMO_CUDA = $(if $(filter file,$(origin CUDA_ARCHS)),$(or $(GPU_ARCHS),CUDA=0))

# Without -j as many at once as there are processors.
PARALLEL = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))

demo:
	@tools/deps.sh build
	@$(MAKE) --no-print-directory $(PARALLEL) $(DEMO_CUDA) all
	@tools/demo.sh $(BUILD)

# One configuration's tests; RECORD collects the counts for the sum at the end.
RECORD ?=
RUN_TESTS = $(PYTHON) tests/run.py $(if $(RECORD),--record $(RECORD))

check: all unit
	@$(RUN_TESTS) --build $(BUILD) --label plain unit fuzz integration

unit-test: unit
	@$(RUN_TESTS) --build $(BUILD) unit

fuzz-test: $(FUZZ)
	@$(RUN_TESTS) --build $(BUILD) fuzz

integration-test: all
	@$(RUN_TESTS) --build $(BUILD) integration

# Not a part of make test: it takes long, and a failure may mean that a program was slower than a promise allows.
hesitate: $(if $(PROGRAMS),all $(BUILD)/tests/hesitate.so)
	$(if $(PROGRAMS),,$(error say who is to hesitate: PROGRAMS=sparkd, or other names with commas between))
	@$(RUN_TESTS) --build $(BUILD) --label "with hesitation of $(PROGRAMS)" --hesitate $(PROGRAMS) $(ONLY:%=--only %) integration

# Boots a real systemd with the installed service in it; needs root.
system-test: all
	@$(RUN_TESTS) --build $(BUILD) --label "real systemd" system

# sparkd-cuda is among them where there is a CUDA compiler, unless CUDA=0.
deb:
	@tools/deps.sh --check build deb || { echo "run 'tools/deps.sh build deb' first" >&2; exit 1; }
	@tools/deb.sh $(BUILD) $(CUDA)

# The CUDA backend takes long to compile, and without a GPU there is nothing to be seen of it: CUDA=0.
package-test:
	@$(RUN_TESTS) --build $(BUILD) --label "packages" package

asan:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/asan SANITIZER=address,undefined CFLAGS="-O1 -g1" all unit
	@$(RUN_TESTS) --build $(BUILD)/asan --label "address+undefined sanitizer" unit fuzz integration

# Where threads meet; the other tests have one, and are not even built.
TSAN_ONLY  := engine mixtures kernels backend libspark loader disk usage session
TSAN_TESTS = $(foreach test,$(UNIT),$(if $(strip $(foreach part,$(TSAN_ONLY),$(findstring $(part),$(notdir $(test))))),$(test)))

.PHONY: tsan-tests tsan-build cross-build
tsan-tests: $(TSAN_TESTS)

tsan-build:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/tsan SANITIZER=thread CFLAGS="-O1 -g1" tsan-tests

tsan: tsan-build
	@$(RUN_TESTS) --build $(BUILD)/tsan --label "thread sanitizer" $(TSAN_ONLY:%=--only %) unit

# No -L for qemu: with the cross compiler's loader and the arm64 packages' libc, creating a thread never ends.
cross-build:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/arm64 CROSS=aarch64-linux-gnu- CUDA=0 all unit

cross: cross-build
	@$(RUN_TESTS) --build $(BUILD)/arm64 --label "aarch64 under qemu" --emulator "qemu-aarch64-static" unit

# What CI can know of the CUDA backend's machine code without a GPU.
cuda-check: $(LIB_cuda) gpu-tests
ifneq ($(LIB_cuda),)
	@tools/check-cuda-resources.py $(if $(RECORD),--record $(RECORD)) --table $(BUILD)/cuda-resources.txt $(CUDA_OBJ:=.log)
else
	@echo "skipped: cuda-check: there is no CUDA compiler (nvcc) here, or CUDA=0"
	@$(if $(RECORD),echo "0 0 1" >>$(RECORD))
endif

# For this machine's GPU alone, as far as nvcc knows it; others translate the PTX.
# What is missing for a part is said, and leaves the others to run. GPU_CHECK: further arguments, as --minutes and --only.
GPU_CHECK ?=
GPU_MAKE  = $(MAKE) --no-print-directory $(PARALLEL) $(GPU_ARCHS)

.PHONY: gpu-programs
gpu-programs: $(if $(NEED_DEPS),deps-check) $(BIN) $(LIB_cuda)

gpu-check:
	@tools/deps.sh --check gpu || echo "gpu-check: some parts need these (apt-get install)" >&2
	+@$(GPU_MAKE) gpu-programs
	+@$(GPU_MAKE) -k gpu-tests || echo "gpu-check: not all of the kernels' tests could be built" >&2
	@$(PYTHON) tests/gpu/gpu-check.py --build $(BUILD) $(GPU_CHECK)

lint: $(GEN_H)
	@tools/lint.sh $(BUILD)

test:
	@tools/deps.sh build test lint
	@tools/test.sh $(BUILD) $(MAKE)

fuzz:
	@tools/deps.sh build fuzz
	@$(MAKE) --no-print-directory BUILD=$(BUILD)-fuzz CC=clang SANITIZER=address,undefined CFLAGS="-O1 -g -fsanitize=fuzzer-no-link" \
	    LIBFUZZER=1 fuzz-targets

.PHONY: fuzz-targets
fuzz-targets: $(FUZZ)

clean:
	rm -rf $(BUILD) $(BUILD)-fuzz

# Where things go. D-Bus reads its files below /usr and /etc only, so a service is installed with PREFIX=/usr.
bindir       ?= $(PREFIX)/bin
libexecdir   ?= $(PREFIX)/libexec/sparkd
libdir       ?= $(PREFIX)/lib
includedir   ?= $(PREFIX)/include
datadir      ?= $(PREFIX)/share
sysconfdir   ?= /etc
bashcompdir  ?= $(datadir)/bash-completion/completions
zshcompdir   ?= $(datadir)/zsh/site-functions
fishcompdir  ?= $(datadir)/fish/vendor_completions.d
# systemd's own folders, whatever libdir is.
systemdlibdir ?= $(PREFIX)/lib
unitdir      ?= $(systemdlibdir)/systemd/system
INSTALL      ?= install
SOVERSION    := 1
BUNDLED_MODEL ?= share/models/spark-tiny.gguf

install: programs
	$(INSTALL) -d $(addprefix $(DESTDIR),$(bindir) $(libexecdir) $(libdir)/pkgconfig $(includedir) $(unitdir) \
	    $(systemdlibdir)/sysusers.d $(systemdlibdir)/tmpfiles.d \
	    $(systemdlibdir)/systemd/catalog $(bashcompdir) $(zshcompdir) $(fishcompdir) \
	    $(datadir)/dbus-1/system.d $(datadir)/dbus-1/system-services \
	    $(datadir)/dbus-1/interfaces $(datadir)/polkit-1/actions $(datadir)/polkit-1/rules.d $(datadir)/sparkd \
	    $(addprefix $(datadir)/man/,man1 man3 man5 man8) \
	    $(sysconfdir)/sparkd)
	$(INSTALL) -m 755 $(addprefix $(BUILD)/bin/,sparkd sparkctl spark-bench) $(DESTDIR)$(bindir)/
	$(INSTALL) -m 755 $(addprefix $(BUILD)/bin/,spark-loader spark-store spark-engine) $(DESTDIR)$(libexecdir)/
ifneq ($(LIB_cuda),)
	$(INSTALL) -d $(DESTDIR)$(libdir)/sparkd
	$(INSTALL) -m 644 $(LIB_cuda) $(DESTDIR)$(libdir)/sparkd/
endif
	$(INSTALL) -m 644 $(BUILD)/lib/libspark.so $(DESTDIR)$(libdir)/libspark.so.$(VERSION)
	ln -sf libspark.so.$(VERSION) $(DESTDIR)$(libdir)/libspark.so.$(SOVERSION)
	ln -sf libspark.so.$(SOVERSION) $(DESTDIR)$(libdir)/libspark.so
	$(INSTALL) -m 644 $(wildcard client/spark*.h) $(DESTDIR)$(includedir)/
	sed 's#@PREFIX@#$(PREFIX)#; s#@LIBDIR@#$(libdir:$(PREFIX)/%=$${prefix}/%)#; s#@VERSION@#$(VERSION)#' client/libspark.pc.in \
	    >$(DESTDIR)$(libdir)/pkgconfig/libspark.pc
	sed 's#@BINDIR@#$(bindir)#' systemd/sparkd.service >$(DESTDIR)$(unitdir)/sparkd.service
	$(INSTALL) -m 644 systemd/sparkd.socket $(DESTDIR)$(unitdir)/
	$(INSTALL) -m 644 systemd/sparkd.sysusers $(DESTDIR)$(systemdlibdir)/sysusers.d/sparkd.conf
	$(INSTALL) -m 644 systemd/sparkd.tmpfiles $(DESTDIR)$(systemdlibdir)/tmpfiles.d/sparkd.conf
	$(INSTALL) -m 644 systemd/sparkd.catalog $(DESTDIR)$(systemdlibdir)/systemd/catalog/
	$(INSTALL) -m 755 client/sparkctl/completion/complete.sh $(DESTDIR)$(libexecdir)/sparkctl-complete
	sed 's#@LIBEXECDIR@#$(libexecdir)#' client/sparkctl/completion/sparkctl.bash >$(DESTDIR)$(bashcompdir)/sparkctl
	sed 's#@LIBEXECDIR@#$(libexecdir)#' client/sparkctl/completion/sparkctl.zsh >$(DESTDIR)$(zshcompdir)/_sparkctl
	sed 's#@LIBEXECDIR@#$(libexecdir)#' client/sparkctl/completion/sparkctl.fish >$(DESTDIR)$(fishcompdir)/sparkctl.fish
	$(INSTALL) -m 644 systemd/org.sparkd.Spark1.conf $(DESTDIR)$(datadir)/dbus-1/system.d/
	$(INSTALL) -m 644 systemd/org.sparkd.Spark1.service $(DESTDIR)$(datadir)/dbus-1/system-services/
	$(INSTALL) -m 644 systemd/org.sparkd.Spark1.xml $(DESTDIR)$(datadir)/dbus-1/interfaces/
	$(INSTALL) -m 644 systemd/org.sparkd.Spark1.policy $(DESTDIR)$(datadir)/polkit-1/actions/
	$(INSTALL) -m 644 client/libspark.3 $(DESTDIR)$(datadir)/man/man3/
	$(INSTALL) -m 644 daemon/control/sparkd.conf.5 systemd/org.sparkd.Spark1.5 $(DESTDIR)$(datadir)/man/man5/
	$(INSTALL) -m 644 systemd/sparkd-sleep.rules $(DESTDIR)$(datadir)/polkit-1/rules.d/50-sparkd-sleep.rules
	$(INSTALL) -m 644 systemd/sparkd-rapl.rules $(DESTDIR)$(datadir)/sparkd/90-sparkd-rapl.rules
	$(INSTALL) -m 644 client/sparkctl/sparkctl.1 tests/bench/spark-bench.1 $(DESTDIR)$(datadir)/man/man1/
	$(INSTALL) -m 644 daemon/control/sparkd.8 $(DESTDIR)$(datadir)/man/man8/
	$(INSTALL) -m 644 $(BUNDLED_MODEL) $(DESTDIR)$(datadir)/sparkd/spark-tiny.gguf
	test -e $(DESTDIR)$(sysconfdir)/sparkd/sparkd.conf || \
	    sed 's#@DATADIR@#$(datadir)#' systemd/sparkd.conf >$(DESTDIR)$(sysconfdir)/sparkd/sparkd.conf

uninstall:
	rm -f $(addprefix $(DESTDIR)$(bindir)/,sparkd sparkctl spark-bench) $(DESTDIR)$(libdir)/libspark.so* \
	    $(patsubst client/%,$(DESTDIR)$(includedir)/%,$(wildcard client/spark*.h)) $(DESTDIR)$(libdir)/pkgconfig/libspark.pc $(DESTDIR)$(unitdir)/sparkd.service \
	    $(DESTDIR)$(unitdir)/sparkd.socket $(DESTDIR)$(systemdlibdir)/sysusers.d/sparkd.conf \
	    $(DESTDIR)$(systemdlibdir)/tmpfiles.d/sparkd.conf $(DESTDIR)$(datadir)/dbus-1/system.d/org.sparkd.Spark1.conf \
	    $(DESTDIR)$(datadir)/dbus-1/system-services/org.sparkd.Spark1.service \
	    $(DESTDIR)$(datadir)/dbus-1/interfaces/org.sparkd.Spark1.xml
	rm -f $(addprefix $(DESTDIR)$(datadir)/,man/man1/sparkctl.1 man/man1/spark-bench.1 man/man3/libspark.3 man/man5/sparkd.conf.5 man/man5/org.sparkd.Spark1.5 \
	    polkit-1/actions/org.sparkd.Spark1.policy)
	rm -f $(addprefix $(DESTDIR),$(datadir)/man/man8/sparkd.8 $(systemdlibdir)/systemd/catalog/sparkd.catalog $(bashcompdir)/sparkctl $(zshcompdir)/_sparkctl \
	    $(fishcompdir)/sparkctl.fish)
	rm -f $(DESTDIR)$(datadir)/polkit-1/rules.d/50-sparkd-sleep.rules
	rm -rf $(DESTDIR)$(libexecdir) $(DESTDIR)$(libdir)/sparkd $(DESTDIR)$(datadir)/sparkd
