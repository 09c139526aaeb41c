# The contract of the build; the work is done by `cargo xtask`.

CARGO := tools/cargo

.PHONY: all build run debug test bench stats clean
all: build

build:
	@$(CARGO) xtask build

# ROOTFS= CMD= SMP= MEM= DISK=virtio|nvme ACCEL= APPEND= INIT= INITRD= BOOT=bios|pvh DEBUG=1
export ROOTFS CMD SMP MEM DISK DISK_SIZE ACCEL CPU APPEND INIT INITRD KERNEL BOOT IMAGE DEBUG QEMU_ARGS
run:
	@$(CARGO) xtask run

debug:
	@$(CARGO) xtask debug

test:
	@$(CARGO) xtask test

bench:
	@$(CARGO) run --quiet --release -p runner -- bench

stats:
	@$(CARGO) run --quiet --release -p stats

clean:
	@$(CARGO) clean
