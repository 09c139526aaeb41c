# The contract of the build; the work is done by `cargo xtask`.

CARGO := tools/cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: all build run run-machine debug profile test bench bench-check bench-record stats clean image deb rpm
all: build

build:
	@$(CARGO) xtask build

# ROOTFS= CMD= SMP= MEM= DISK=virtio|nvme|ahci|ram ACCEL= APPEND= NET=user HOSTFWD=8080:80 INIT= INITRD= BOOT=bios|pvh DEBUG=1
export FORMAT ROOTFS CMD SMP MEM DISK DISK_SIZE ACCEL CPU APPEND NET HOSTFWD INIT INITRD KERNEL BOOT IMAGE DEBUG QEMU_ARGS FOLDED
run: run-machine
	$(exit-with $(TARGET)/run-status)@read status < $(TARGET)/run-status.$$PPID; \
		rm -f $(TARGET)/run-status.$$PPID; exit $$status

run-machine:
	@mkdir -p $(TARGET); status=0; $(CARGO) xtask run || status=$$?; \
		echo $$status > $(TARGET)/run-status.$$PPID

# Make's own status is 2 for whatever failed; with this loaded it is the status of CMD.
ifneq ($(filter run,$(MAKECMDGOALS)),)
$(TARGET)/release/libmake_status.so: tools/make-status/src/lib.rs
	@$(CARGO) build --quiet --release -p make-status && touch $@
-load $(TARGET)/release/libmake_status.so(make_status_setup)
endif

# A disk or CD to give away: FORMAT=raw|qcow2|iso ROOTFS= DISK_SIZE= APPEND=
image:
	@FORMAT=$(or $(FORMAT),qcow2) $(CARGO) xtask image

# The kernel's package for Debian, and for CentOS with a directory that yum takes it from.
deb rpm:
	@$(CARGO) xtask $@

debug:
	@$(CARGO) xtask debug

# Where the instructions of CMD go. FOLDED=FILE writes lines for a flame graph.
profile:
	@$(CARGO) xtask profile

test:
	@$(CARGO) xtask test

# Both kernels side by side; docs/benchmarks has the results and tells how they come about.
# PARTS=paths,applications,storage,network,scaling,size  ROWS=fork,pipe (printed, not saved)  PAIRS= CPUS= (of scaling)
RUNNER := $(CARGO) run --quiet --release -p runner --
bench: build
	@$(RUNNER) bench --parts "$(PARTS)" --rows "$(ROWS)" $(if $(PAIRS),--pairs $(PAIRS)) \
		$(if $(CPUS),--cpus $(CPUS))

# Instruction counts of our kernel's paths: compared with docs/benchmarks/latest.json, or put there.
bench-check: build
	@$(RUNNER) bench-check --rows "$(ROWS)"

bench-record: build
	@$(RUNNER) bench-record

stats:
	@$(CARGO) run --quiet --release -p stats

clean:
	@$(CARGO) clean
